"""Keeps what is positive: the selection that a ReLU makes."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float
from rarefy.selectors.masked import selected


@dataclass(frozen=True)
class Positive:
    """Keeps input j iff `x_j > 0`: on the input of a layer this is a ReLU before it, values and gradients alike.

    >>> import torch
    >>> Positive().mask(torch.tensor([[0.5, -2.0, 0.0]]))
    tensor([[ True, False, False]])
    """

    @property
    def width(self) -> int | None:
        """Any number of features."""
        return None

    def mask(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens width"]:
        """True = keep."""
        return x > 0

    def __call__(self, x: Float[Tensor, "tokens width"], context: Any = None) -> Selection:
        return selected(x, self.mask(x))
