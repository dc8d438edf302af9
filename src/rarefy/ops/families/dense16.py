"""Bfloat16 weights stored whole, inputs rounded to bfloat16."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The best of them, for any number of tokens: with few, the tiles' kernel uses vectors by itself."""
    return [kernels[0].name]
