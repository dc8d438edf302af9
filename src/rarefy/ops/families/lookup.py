"""Inputs picked out of registers, for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import LEVELS, KernelInfo

MOST_TOKENS = 8
MOST_KEPT = 0.45  # beyond it a bit mask takes fewer bytes and hardly more time


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """Of the widest vectors and each type, where about half of the weights or more are zeros."""
    if tokens > MOST_TOKENS or int(weight.count_nonzero()) > MOST_KEPT * weight.numel():
        return []
    levels = [LEVELS.index(k.isa) for k in kernels]
    return [k.name for k in kernels if LEVELS.index(k.isa) == max(levels)]
