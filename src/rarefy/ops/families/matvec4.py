"""4-bit weights in groups of 16 inputs, for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.families.matvec import MOST_TOKENS, best_of
from rarefy.ops.native import KernelInfo

GROUP = 16
WIDEST = 65536  # inputs


def takes_scales(width: int, groups: int) -> bool:
    """One scale a row, or one for every 16 inputs or a multiple of them."""
    return groups == 1 or (width // groups) % GROUP == 0


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """Whole groups left out where enough are empty (numbers for them, or bits), else dense rows."""
    if tokens > MOST_TOKENS or weight.shape[1] > WIDEST:
        return []
    formats = ("listed", "groups") if empty_groups(weight) >= 0.05 else ("dense",)
    return [name for wanted in formats for name in best_of(kernels, wanted)]


def empty_groups(weight: Tensor) -> float:
    """The fraction of groups of 16 inputs that hold nothing; inputs that fill no group count as none."""
    whole = weight[:, : weight.shape[1] // GROUP * GROUP]
    if whole.numel() == 0:
        return 0.0
    empty = ~whole.reshape(-1, GROUP).any(1)
    return int(empty.sum()) / len(empty)
