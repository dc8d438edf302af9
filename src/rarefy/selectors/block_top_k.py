"""Keeps the n largest of every m neighbours: what different tokens of a batch keep is spread evenly."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float
from rarefy.core.topk import keep_top
from rarefy.selectors.masked import selected, sizes


@dataclass(frozen=True)
class BlockTopK:
    """Keeps the `n` inputs with the largest `|x_j|` of every `m` consecutive ones, ties to the lower index.

    >>> import torch
    >>> BlockTopK(1, 2).mask(torch.tensor([[0.5, -2.0, 9.0, 8.0]]))
    tensor([[False,  True,  True, False]])
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 <= self.n <= self.m or self.m < 1:
            raise SparsityError(f"BlockTopK: {self.n} of {self.m} cannot be kept; give 0 <= n <= m, m >= 1")

    @property
    def width(self) -> int | None:
        """Any multiple of m."""
        return None

    def mask(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens width"]:
        """True = keep."""
        if x.shape[-1] % self.m:
            raise ShapeError(f"BlockTopK: {x.shape[-1]} features are no multiple of m = {self.m}; choose another m")
        return keep_top(sizes(x, None).reshape(-1, self.m), self.n).view(x.shape)

    def __call__(self, x: Float[Tensor, "tokens width"], context: Any = None) -> Selection:
        return selected(x, self.mask(x))
