"""Float32 weights stored whole, in the order in which the product reads them."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo

MOST_TOKENS = 256  # beyond, a library's product that cuts all three dimensions is as good


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The best of them where few weights are zero: else one that skips zeros wins."""
    few_zeros = int(weight.count_nonzero()) > 0.45 * weight.numel()
    return [kernels[0].name] if few_zeros and tokens <= MOST_TOKENS else []
