"""Keeps what is larger than a threshold: one comparison an entry, a share that varies from token to token."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float
from rarefy.selectors.masked import require_width, selected, sizes


@dataclass(frozen=True, eq=False)
class Threshold:
    """Keeps input j iff `|x_j| * weight_j > threshold_j`, strictly: threshold 0 keeps exactly the nonzero inputs.

    threshold: `()` or `(width,)`, in the unit of the input (times the weight); below 0 everything is kept, zeros too.
    weight: `(width,)`, none for ones. Compared in float32 or better.

    >>> Threshold(torch.tensor(1.0)).mask(torch.tensor([[0.5, -2.0, 1.0]]))
    tensor([[False,  True, False]])
    """

    threshold: Tensor
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, Tensor):
            kind = type(self.threshold).__name__
            raise ShapeError(f"Threshold: {self.threshold!r} is a {kind}; give a tensor, as torch.tensor(0.5)")
        shapes = [tuple(t.shape) for t in (self.threshold, self.weight) if t is not None]
        if any(len(shape) > 1 for shape in shapes) or (self.weight is not None and self.weight.dim() != 1):
            raise ShapeError(f"Threshold: shapes {shapes}; the threshold is () or (width,), the weight (width,)")
        if bool(self.threshold.isnan().any()) or (self.weight is not None and bool(self.weight.isnan().any())):
            raise SparsityError("Threshold: holds NaN; calibrate on finite activations")

    @property
    def width(self) -> int | None:
        """How many features it was made for; None if any."""
        vectors = [t for t in (self.threshold, self.weight) if t is not None and t.dim()]
        return vectors[0].shape[0] if vectors else None

    def mask(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens width"]:
        """True = keep."""
        require_width("Threshold", x, self.threshold, self.weight)
        return sizes(x, self.weight) > self.threshold

    def __call__(self, x: Float[Tensor, "tokens width"], context: Any = None) -> Selection:
        return selected(x, self.mask(x))


NONZERO = Threshold(torch.zeros(()))
"""Keeps the inputs that are not zero: the exact selector of a ReLU."""
