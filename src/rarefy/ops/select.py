"""Which inputs of a token are used, as the native steps take it: the others become 0 before a product by columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_floats, require_last


@dataclass(frozen=True, eq=False)
class Select:
    """Keeps x_j where |x_j| weight_j > threshold_j, or with `keep` the so many largest of a token.

    threshold: () or (width,), None with `keep`; weight: (width,), none for ones. Both float32 and contiguous. Ties go
    to the lower index; what is no number is kept, so that it is seen.
    """

    width: int
    threshold: Tensor | None = None
    weight: Tensor | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        require_floats(
            "Select", **{n: t for n, t in (("threshold", self.threshold), ("weight", self.weight)) if t is not None}
        )
        if (self.threshold is None) == (self.keep is None):
            raise ShapeError("Select: give a threshold or a count to keep, and not both")
        for name, vector in (("threshold", self.threshold), ("weight", self.weight)):
            if vector is None or (name == "threshold" and vector.dim() == 0):
                continue
            if tuple(vector.shape) != (self.width,) or not vector.is_contiguous():
                raise ShapeError(
                    f"Select: {name} has shape {tuple(vector.shape)}, it must be ({self.width},), contiguous"
                )


def select_args(by: Select | None) -> tuple[int, int, int, int, int]:
    """(kind, address of the threshold, its step, address of the weight, count): valid while `by` lives."""
    if by is None:
        return 0, 0, 0, 0, 0
    weight = 0 if by.weight is None else by.weight.data_ptr()
    if by.threshold is None:
        assert by.keep is not None
        return 2, 0, 0, weight, min(by.keep, by.width)
    return 1, by.threshold.data_ptr(), by.threshold.dim(), weight, 0


def select_inputs(x: Tensor, by: Select) -> Tensor:
    """x (tokens, width) with zeros where it is not selected, by the native code. The module must be there."""
    require_floats("select_inputs", x=x)
    require_last("select_inputs", x, by.width)
    module = native.module()
    assert module is not None, "the caller has asked whether the native module is there"
    rows = x.reshape(-1, by.width).contiguous()
    out = torch.empty_like(rows)
    module.select_inputs(rows.data_ptr(), rows.shape[0], by.width, select_args(by), out.data_ptr())
    return out.view(x.shape)
