"""Weights by rows, of which only those that a list names are computed: for the hidden neurons that a token selects."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """None: for all rows, other kernels are better."""
    return []
