"""Float32 weights in tiles, for many tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The tiles that the tokens fill at least half; two of them where the row kernels are likely to win."""
    if tokens <= 2:
        return []
    fitting = [k.name for k in kernels if k.tile[1] <= max(16, 2 * tokens)]
    return fitting[:2] if tokens <= 8 else fitting
