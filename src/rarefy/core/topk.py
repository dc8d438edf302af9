"""Exact selection of the kept entries, written once for the whole library.

A threshold misses the asked count as soon as scores repeat; `keep_top` never does.
"""

import math

import torch
from torch import Tensor

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.kth import kth_smallest
from rarefy.core.shapes import RowMask, Scores


def exact_count(size: int, density: float) -> int:
    """How many of `size` entries a density keeps: the nearest integer, halves up.

    >>> exact_count(10, 0.3), exact_count(10, 0.25), exact_count(0, 0.5)
    (3, 3, 0)
    """
    if not 0.0 <= density <= 1.0:
        raise SparsityError(f"exact_count: density {density} is outside [0, 1]; density = 1 - sparsity")
    return min(size, math.floor(size * density + 0.5 + 1e-9))


def keep_top(scores: Scores, count: int) -> RowMask:
    """Keeps exactly `count` entries of every row: the largest, ties to the lower index.

    Shapes: scores `(rows, n)` -> mask `(rows, n)`, True = keep. Infinite scores are ordinary extremes; NaN has
    no place in an order and is an error. Selection of the k-th value costs O(rows * n), no full sort.

    >>> keep_top(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 1)
    tensor([[False,  True, False, False]])
    """
    rows, n = scores.shape
    if not 0 <= count <= n:
        raise SparsityError(f"keep_top: count {count} is outside [0, {n}] for rows of {n} entries")
    if torch.compiler.is_compiling():
        return _without_branches(scores, count)
    if not scores.sum().isfinite() and scores.isnan().any():
        row = int(scores.isnan().any(dim=1).nonzero()[0])
        raise DataError(f"keep_top: row {row} of the scores holds NaN; check the weights and the data for NaN")
    if count in (0, n):
        return torch.full((rows, n), count == n, dtype=torch.bool, device=scores.device)
    kth = kth_smallest(scores, n - count)
    above, tied = scores > kth, scores == kth
    missing = count - _true(above)
    spare = _true(tied) > missing  # rows of which not every tied entry has room: numbering them takes memory
    if spare.any():
        tied[spare] &= tied[spare].cumsum(dim=1) <= missing[spare, None]
    return above.logical_or_(tied)


def _without_branches(scores: Scores, count: int) -> RowMask:
    """The same for graphs, which have no branches on values: NaN is kept beside the largest, so that it is seen."""
    if count in (0, scores.shape[1]):
        return torch.full_like(scores, count > 0, dtype=torch.bool).logical_or(scores.isnan())
    kth = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values
    above, tied = scores > kth, scores == kth
    missing = count - above.sum(dim=1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=1) <= missing)) | scores.isnan()


def _true(mask: RowMask) -> Tensor:
    """How many entries of each row; torch counts bools in int64 twenty times slower than so."""
    return mask.count_nonzero()[None] if len(mask) == 1 else mask.sum(dim=1, dtype=torch.int32)
