"""`rarefy::quantize_rows(x)`: float rows as bytes, each with a scale and a zero point of its own.

x (..., features) float32 -> values (..., features) uint8, scale (...) float32, zero (...) int32, with
x ~ scale (values - zero). It is what the kernels with 8-bit activations do to a float input.
"""

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_floats

_library = torch.library.Library("rarefy", "FRAGMENT")
_library.define("quantize_rows(Tensor x) -> (Tensor, Tensor, Tensor)")


def _reference(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in torch: the range of a row, widened to hold 0, in 255 steps; ties to even."""
    numbers = x.nan_to_num(0.0, float("inf"), float("-inf"))
    low = numbers.amin(-1).clamp(max=0.0) if x.shape[-1] else x.new_zeros(x.shape[:-1])
    high = numbers.amax(-1).clamp(min=0.0) if x.shape[-1] else x.new_zeros(x.shape[:-1])
    step = torch.where(low == high, 1.0, (high / 255 - low / 255).clamp(min=torch.finfo(torch.float32).tiny))
    inverse = 1 / step
    zero = (-low * inverse).clamp(0, 255).round().to(torch.int32)
    rounded = (x * inverse.unsqueeze(-1)).round() + zero.unsqueeze(-1)
    poison = (x * 0.0).sum(-1)  # NaN where a value is not finite
    return rounded.nan_to_num(0.0).clamp(0, 255).to(torch.uint8), step + poison, zero


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """values uint8, scale float32 and zero int32 with x ~ scale (values - zero); a row of zeros has scale 1.

    A row with a value that is not finite has the scale NaN, so that every product with it is NaN too.
    """
    require_floats("rarefy::quantize_rows", x=x)
    if x.dim() == 0:
        raise ShapeError("rarefy::quantize_rows: x is a scalar; it must be (..., features)")
    module = native.module()
    if module is None:
        return _reference(x)
    rows = x.contiguous()
    values = torch.empty(x.shape, dtype=torch.uint8)
    scale, zero = torch.empty(x.shape[:-1]), torch.empty(x.shape[:-1], dtype=torch.int32)
    module.quantize_rows(
        rows.data_ptr(), scale.numel(), x.shape[-1], values.data_ptr(), scale.data_ptr(), zero.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return values, scale, zero


_library.impl("quantize_rows", quantize_rows, "CPU")
torch.library.register_fake(
    "rarefy::quantize_rows",
    lambda x: (
        x.new_empty(x.shape, dtype=torch.uint8),
        x.new_empty(x.shape[:-1]),
        x.new_empty(x.shape[:-1], dtype=torch.int32),
    ),
    lib=_library,
)
