"""8-bit weights in cells (1x4) or strips (2x1, 4x1) with 8-bit activations, for many tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import KernelInfo


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The tiles that the tokens fill at least half."""
    return [k.name for k in kernels if k.tile[1] <= max(16, 2 * tokens)]
