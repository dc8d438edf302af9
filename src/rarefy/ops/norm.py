"""`rarefy::add_layer_norm(x, residual, weight, bias, eps)`: layer_norm(x + residual) over the last axis, in one pass.

x (..., features); residual is None or has x's shape, or one that repeats along leading axes (1 or absent); weight and
bias (features), bias may be None. Everything is float32 on the CPU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_bias, require_floats, require_last

_library = torch.library.Library("rarefy", "FRAGMENT")
_library.define("add_layer_norm(Tensor x, Tensor? residual, Tensor weight, Tensor? bias, float eps) -> Tensor")


def _require_residual(where: str, x: Tensor, residual: Tensor) -> None:
    """The residual is the end of x's shape, with nothing but ones before it."""
    shape = tuple(residual.shape)
    while shape and shape[0] == 1 and len(shape) > 1:
        shape = shape[1:]
    if not shape or shape != tuple(x.shape[x.dim() - len(shape) :]) or residual.dim() > x.dim():
        raise ShapeError(
            f"{where}: residual has shape {tuple(residual.shape)} and x {tuple(x.shape)}; residual must have x's shape "
            "or repeat along its leading axes: give residual.expand_as(x)"
        )


def add_layer_norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """layer_norm(x + residual) * weight + bias, natively where the native module is there."""
    where = "rarefy::add_layer_norm"
    require_floats(where, x=x, residual=residual, weight=weight, bias=bias)
    features = weight.numel()
    require_last(where, x, features)
    require_bias(f"{where}: weight", weight, features)
    require_bias(where, bias, features)
    if residual is not None:
        _require_residual(where, x, residual)
    module = native.module()
    if module is None:
        return F.layer_norm(x if residual is None else x + residual, (features,), weight, bias, eps).contiguous()
    x, weight = x.contiguous(), weight.contiguous()
    residual = None if residual is None else residual.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty_like(x)
    module.add_layer_norm(
        x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        0 if residual is None else residual.numel() // max(1, features),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        x.numel() // max(1, features),
        features,
        eps,
        torch.get_num_threads(),
    )
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, residual, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(x, residual, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The sum and its statistics are computed again: cheaper than keeping them."""
    x, residual, weight, bias = ctx.saved_tensors
    total, shape = (x if residual is None else x + residual), (weight.shape[0],)
    _, mean, inverse = torch.ops.aten.native_layer_norm(total, shape, weight, bias, ctx.eps)
    wanted = [True, True, bias is not None]
    dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), total, shape, mean, inverse, weight, bias, wanted
    )
    dresidual = None if residual is None else dx.sum_to_size(residual.shape)
    return dx, dresidual, dweight, None if bias is None else dbias, None


_library.impl("add_layer_norm", add_layer_norm, "CPU")
torch.library.register_fake(
    "rarefy::add_layer_norm",
    lambda x, residual, weight, bias, eps: torch.empty_like(x, memory_format=torch.contiguous_format),
    lib=_library,
)
torch.library.register_autograd("rarefy::add_layer_norm", _backward, setup_context=_save, lib=_library)
