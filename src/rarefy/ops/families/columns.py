"""Weights by input columns, of which only those with an input that is not 0 are read: for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import LEVELS, KernelInfo

MOST_TOKENS = 16
_SPARSE = 0.8  # density of a weight up to which a bit mask is worth its bits


def takes_scales(width: int, groups: int) -> bool:
    """One scale a row; of 4-bit weights also one for every 16 inputs or a multiple of them."""
    return groups == 1 or (width // groups) % 16 == 0


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """None: what they save depends on the inputs, so they are timed only where inputs are selected (`selective`)."""
    return []


def selective(kernels: Sequence[KernelInfo], weight: Tensor) -> list[str]:
    """Those of the best instruction set among `kernels`: whole columns, and without the zeros where there are many."""
    top = max((LEVELS.index(k.isa) for k in kernels), default=0)
    best = [k.name for k in kernels if LEVELS.index(k.isa) == top]
    sparse = int(weight.count_nonzero()) <= _SPARSE * weight.numel()
    return [name for name in best if sparse or "-bitmask-" not in name]
