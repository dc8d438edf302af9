"""Float32 weights as a bitmap and the non-zeros, expanded before a dense product."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The best of them for some tens of tokens and up to 65 % zeros: else a sparse or dense product wins."""
    share = int(weight.count_nonzero()) / max(1, weight.numel())
    return [kernels[0].name] if 0.35 < share < 0.95 and 3 <= tokens <= 64 else []
