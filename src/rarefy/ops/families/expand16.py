"""Bfloat16 weights as a bitmap and the non-zeros, expanded before a dense product."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The best of them where the bitmap saves a fifteenth of the bytes or more."""
    return [kernels[0].name] if weight.count_nonzero() <= 0.87 * weight.numel() else []
