"""8-bit weights in cells (1x4) or strips (2x1, 4x1, 16x1) with 8-bit activations, for many tokens."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from rarefy.ops.native import KernelInfo

# The busiest port's cycles for 64 tokens, as measured on AVX-512: of a cell, and of four inputs of a strip of n rows.
_CELL = 3.4
_STRIP = {2: 9.5, 4: 13.0, 16: 40.0}
_NEAR = 1.3  # a kernel estimated slower than the best by this factor has not been seen to win


def _blocks(keep: Tensor, rows: int, columns: int) -> int:
    """Blocks of rows x columns that are not empty, of a mask (out, in)."""
    out, width = keep.shape
    padded = F.pad(keep, (0, -width % columns, 0, -out % rows))
    shape = (padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    return int(padded.view(shape).any(3).any(1).sum())


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """The tiles that the tokens fill at least half, of the shapes that this mask fills well; likely best first."""
    fitting = [k for k in kernels if k.tile[1] <= 2 * tokens]
    keep = weight != 0
    if keep.numel() == 0 or not fitting:
        return [k.name for k in fitting[:1]]
    costs: dict[int | None, float] = {}  # by the rows of a strip, None: of cells

    def cost(kernel: KernelInfo) -> float:
        """Cycles for 64 tokens. A narrow tile costs more where the tokens fill a wide one."""
        rows = None if "-cell-" in kernel.name else kernel.tile[0]
        if rows not in costs:
            costs[rows] = _blocks(keep, 1, 4) * _CELL if rows is None else _blocks(keep, rows, 1) / 4 * _STRIP[rows]
        return costs[rows] * (1.15 if kernel.tile[1] < min(64, tokens) else 1.0)

    ranked = sorted(fitting, key=cost)
    return [k.name for k in ranked if cost(k) <= _NEAR * cost(ranked[0])]
