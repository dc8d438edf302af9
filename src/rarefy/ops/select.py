"""Which inputs of a token are used, as the native steps take it: the others become 0 before a product by columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_floats, require_last


@dataclass(frozen=True, eq=False)
class Select:
    """Keeps x_j where |x_j| weight_j > threshold_j, or with `keep` the so many largest of a token, or of every `block`
    consecutive ones, or with `positive` what is above 0, or what mask `slot` of a decoder's step names.

    threshold: () or (width,), None with `keep`; weight: (width,), none for ones. Both float32 and contiguous. Ties go
    to the lower index; what is no number is kept, so that it is seen.
    """

    width: int
    threshold: Tensor | None = None
    weight: Tensor | None = None
    keep: int | None = None
    block: int | None = None
    positive: bool = False
    slot: int | None = None

    def __post_init__(self) -> None:
        require_floats(
            "Select", **{n: t for n, t in (("threshold", self.threshold), ("weight", self.weight)) if t is not None}
        )
        ways = (self.threshold is not None, self.keep is not None, self.positive, self.slot is not None)
        if sum(ways) != 1:
            raise ShapeError("Select: give a threshold, a count to keep, `positive` or a slot, and not both")
        if self.block is not None:
            self._require_blocks(self.block)
        for name, vector in (("threshold", self.threshold), ("weight", self.weight)):
            if vector is None or (name == "threshold" and vector.dim() == 0):
                continue
            if tuple(vector.shape) != (self.width,) or not vector.is_contiguous():
                raise ShapeError(
                    f"Select: {name} has shape {tuple(vector.shape)}, it must be ({self.width},), contiguous"
                )

    def _require_blocks(self, block: int) -> None:
        if self.keep is None or not 0 <= self.keep <= block or block < 1 or self.width % block:
            raise ShapeError(
                f"Select: {self.keep} of every {block} of {self.width} cannot be kept; the width is a multiple of the "
                "block, and the count at most the block"
            )


def select_args(by: Select | None) -> tuple[int, int, int, int, int, int, int]:
    """(kind, address of the threshold, its step, address of the weight, count, block, slot): valid while `by` lives."""
    if by is None:
        return 0, 0, 0, 0, 0, 0, 0
    weight = 0 if by.weight is None else by.weight.data_ptr()
    if by.positive:
        return 3, 0, 0, 0, 0, 0, 0
    if by.slot is not None:
        return 5, 0, 0, 0, 0, 0, by.slot
    if by.threshold is not None:
        return 1, by.threshold.data_ptr(), by.threshold.dim(), weight, 0, 0, 0
    assert by.keep is not None
    if by.block is not None:
        return 4, 0, 0, weight, by.keep, by.block, 0
    return 2, 0, 0, weight, min(by.keep, by.width), 0, 0


def select_inputs(x: Tensor, by: Select) -> Tensor:
    """x (tokens, width) with zeros where it is not selected, by the native code. The module must be there."""
    require_floats("select_inputs", x=x)
    require_last("select_inputs", x, by.width)
    if by.slot is not None:
        raise ShapeError("select_inputs: a slot names a mask of a decoder's step, of which there is none here")
    module = native.module()
    assert module is not None, "the caller has asked whether the native module is there"
    rows = x.reshape(-1, by.width).contiguous()
    out = torch.empty_like(rows)
    module.select_inputs(rows.data_ptr(), rows.shape[0], by.width, select_args(by), out.data_ptr())
    return out.view(x.shape)
