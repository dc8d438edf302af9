"""Which entries of a matrix compete with which under a pattern, as index arithmetic."""

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise


def competing_sets(pattern: Pattern, rows: int, n: int, site: str) -> Tensor:
    """(sets, units, entries): flat indices into a (rows, n) matrix; units of one set compete, entries go together.

    The layer is one set for layerwise and blocks, a row for rowwise and fan-in, M inputs for N:M.
    """
    index = torch.arange(rows * n)
    if isinstance(pattern, Layerwise):
        return index.view(1, -1, 1)
    if isinstance(pattern, Rowwise | FanIn):
        return index.view(rows, n, 1)
    if isinstance(pattern, NM) and n % pattern.m == 0:
        return index.view(-1, pattern.m, 1)
    if isinstance(pattern, Block):
        r, c = pattern.granularity
        return index.view(rows // r, r, n // c, c).transpose(1, 2).reshape(1, -1, r * c)
    raise SparsityError(
        f"{site}: sampling does not know which weights compete under {pattern}; use an unstructured, fan-in, N:M or "
        "block pattern"
    )
