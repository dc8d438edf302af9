"""Float32 weights in rows, for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """All of them for up to eight tokens, which share one pass over the weights."""
    return [k.name for k in kernels] if tokens <= 8 else []
