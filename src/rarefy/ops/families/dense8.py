"""8-bit weights stored whole, 8-bit inputs: what a layer with few zeros takes."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo

MOST_INPUTS = 65536  # of a row: more could pass 31 bits


def takes_scales(width: int, groups: int) -> bool:
    """One scale a row, and a sum of its inputs that fits 32 bits."""
    return groups == 1 and width <= MOST_INPUTS


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The best of them, for any number of tokens: with few, the tiles' kernel uses vectors by itself."""
    return [kernels[0].name]
