"""The shapes that public signatures speak of. Weights are `(out, in)`, tokens come first, True = keep."""

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Weight = Float[Tensor, "out in"]
Mask = Bool[Tensor, "out in"]
Scores = Float[Tensor, "rows n"]
RowMask = Bool[Tensor, "rows n"]
Bits = UInt8[Tensor, "rows bytes"]

__all__ = ["Bits", "Bool", "Float", "Int", "Mask", "RowMask", "Scores", "Tensor", "UInt8", "Weight"]
