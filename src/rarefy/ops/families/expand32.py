"""Float32 weights as a bitmap and the non-zeros, expanded before a dense product."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The best of them for some tens of tokens and less than half zeros: else a sparse or dense product wins."""
    few_zeros = weight.numel() < 2 * int(weight.count_nonzero()) < 1.9 * weight.numel()
    return [kernels[0].name] if few_zeros and 3 <= tokens <= 64 else []
