"""Keeps the same few for every token."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float
from rarefy.selectors.masked import require_width, selected


@dataclass(frozen=True, eq=False)
class Fixed:
    """Keeps the features of `keep` (width,) bool.

    >>> import torch
    >>> Fixed(torch.tensor([True, False])).mask(torch.ones(1, 2))
    tensor([[ True, False]])
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dim() != 1:
            raise ShapeError(f"Fixed: keep has shape {tuple(self.keep.shape)}; it is (width,)")

    @property
    def width(self) -> int | None:
        """How many features it was made for."""
        return self.keep.shape[0]

    def mask(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens width"]:
        """True = keep."""
        require_width("Fixed", x, self.keep)
        return self.keep.expand(x.shape)

    def __call__(self, x: Float[Tensor, "tokens width"], context: Any = None) -> Selection:
        return selected(x, self.mask(x))
