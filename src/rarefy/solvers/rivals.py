"""Which weights may take each other's place in a mask, for searches that swap."""

import torch
from torch import Tensor

from rarefy.core.errors import SolverError
from rarefy.core.joint import SiteSupport, Supports
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.unstructured import Layerwise, Rowwise


def rival_units(supports: Supports) -> tuple[Tensor, Tensor]:
    """(unit of each weight (p,), set of each unit (units,)): weights of a unit go together, units of a set compete."""
    if supports.total is not None:
        size = sum(supports.sizes)
        return torch.arange(size), torch.zeros(size, dtype=torch.long)
    units, sets, unit, group = [], [], 0, 0
    for site in supports.sites:
        of_weight, of_unit = _of_site(site)
        units.append(of_weight.reshape(-1) + unit)
        sets.append(of_unit + group)
        unit, group = unit + len(of_unit), group + int(of_unit.max()) + 1
    return torch.cat(units), torch.cat(sets)


def _of_site(site: SiteSupport) -> tuple[Tensor, Tensor]:
    """The same for one site, its weights (out, in)."""
    rows, n = site.alive.shape
    index = torch.arange(rows * n).reshape(rows, n)
    row = torch.arange(rows)
    pattern = site.pattern
    if isinstance(pattern, Layerwise):
        return index, (row // (rows // site.groups)).repeat_interleave(n)
    if isinstance(pattern, Rowwise | FanIn):
        return index, row.repeat_interleave(n)
    if isinstance(pattern, NM | PaddedNM):
        groups = -(-n // pattern.m)
        return index, (row[:, None] * groups + torch.arange(n) // pattern.m).reshape(-1)
    if isinstance(pattern, Block):
        r, c = pattern.granularity
        tiles = torch.arange((rows // r) * (n // c)).reshape(rows // r, n // c)
        band = torch.arange(rows // r) // (rows // r // site.groups)
        return tiles.repeat_interleave(r, 0).repeat_interleave(c, 1), band.repeat_interleave(n // c)
    raise SolverError(
        f"{site.name}: swaps between weights are not known for {pattern}; use an unstructured, row-wise, fan-in, N:M "
        "or block pattern, or another solver"
    )
