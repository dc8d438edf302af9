"""Keeps the k largest of every token: an exact count, at the price of a selection a token."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float
from rarefy.core.topk import keep_top
from rarefy.selectors.masked import require_width, selected, sizes


@dataclass(frozen=True, eq=False)
class TopK:
    """Keeps the `k` inputs of every token with the largest `|x_j| * weight_j`, ties to the lower index.

    weight: `(width,)`, none for ones. k may be 0. Compared in float32 or better.

    >>> import torch
    >>> TopK(1)(torch.tensor([[0.5, -2.0, 1.0]])).index
    tensor([[1]])
    """

    k: int
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 0:
            raise SparsityError(f"TopK: k is {self.k}; give the number of inputs to keep, 0 or more")
        if self.weight is not None and self.weight.dim() != 1:
            raise ShapeError(f"TopK: the weight has shape {tuple(self.weight.shape)}; it is (width,)")

    @property
    def width(self) -> int | None:
        """How many features it was made for; None if any."""
        return None if self.weight is None else self.weight.shape[0]

    def mask(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens width"]:
        """True = keep."""
        require_width("TopK", x, self.weight)
        size = sizes(x, self.weight)
        return keep_top(size.reshape(-1, x.shape[-1]), self.k).view(x.shape)

    def __call__(self, x: Float[Tensor, "tokens width"], context: Any = None) -> Selection:
        return selected(x, self.mask(x))
