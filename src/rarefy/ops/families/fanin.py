"""Constant fan-in, for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.families.matvec import MOST_TOKENS
from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """All of them where outputs have few inputs each, and nearly equally many."""
    if tokens > MOST_TOKENS or weight.numel() == 0:
        return []
    counts = weight.count_nonzero(1)
    fullest, total = int(counts.max()), int(counts.sum())
    even = fullest * len(counts) <= 1.1 * total
    return [k.name for k in kernels] if even and total <= 0.3 * weight.numel() else []
