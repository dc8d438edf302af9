"""`rarefy::packed_conv2d(x, handle, bias, residual, activation)`: act(conv(x) + bias + residual), the weight packed.

x (batch, in, height, width), bias (out) or None, residual shaped like the result or None. Everything is float32 on the
CPU. Gradients flow to x, the bias and the residual; the weight is frozen.
"""

from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError, unknown_name
from rarefy.ops import conv
from rarefy.ops.checks import require_bias, require_floats
from rarefy.ops.conv_reference import ACTIVATIONS, activate, conv2d

_WHERE = "rarefy::packed_conv2d"
_library = torch.library.Library("rarefy", "FRAGMENT")
_library.define("packed_conv2d(Tensor x, int handle, Tensor? bias, Tensor? residual, str activation='none') -> Tensor")
_library.define(
    "packed_conv2d_grad(Tensor grad, Tensor x, int handle, Tensor? bias, Tensor? residual, str activation)"
    " -> (Tensor, Tensor)"
)


def _require(x: Tensor, weight: conv.PackedConv, bias: Tensor | None, residual: Tensor | None, activation: str) -> None:
    require_floats(_WHERE, x=x, bias=bias, residual=residual)
    channels = weight.shape[1] * weight.window.groups
    if x.dim() != 4 or x.shape[1] != channels:
        raise ShapeError(f"{_WHERE}: x has shape {tuple(x.shape)}, it must be (batch, {channels}, height, width)")
    require_bias(_WHERE, bias, weight.shape[0])
    out = weight.out_shape(x.shape)
    if min(out[2:]) < 1:
        raise ShapeError(
            f"{_WHERE}: an image of {x.shape[2]} x {x.shape[3]} is smaller than the kernel {weight.shape[2]} x "
            f"{weight.shape[3]} of {weight.window}; give a larger image or more padding"
        )
    if residual is not None and tuple(residual.shape) != out:
        raise ShapeError(
            f"{_WHERE}: residual has shape {tuple(residual.shape)}, the result {tuple(out)}; they must agree"
        )
    if activation not in ACTIVATIONS:
        raise unknown_name(f"{_WHERE}: activation", activation, ACTIVATIONS)


def packed_conv2d(
    x: Tensor, handle: int, bias: Tensor | None, residual: Tensor | None, activation: str = "none"
) -> Tensor:
    """act(conv(x) + bias + residual), natively where the weight was packed natively."""
    weight = conv.find(handle)
    _require(x, weight, bias, residual, activation)
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    return weight.convolve(x.contiguous(), bias, residual, activation)


def _fake(x: Tensor, handle: int, bias: Tensor | None, residual: Tensor | None, activation: str = "none") -> Tensor:
    return x.new_empty(conv.find(handle).out_shape(x.shape))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.handle, bias, residual, ctx.activation = inputs
    ctx.save_for_backward(x, bias, residual)


def _grad(
    grad: Tensor, x: Tensor, handle: int, bias: Tensor | None, residual: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the sum before the activation, which is computed again: cheaper than keeping it."""
    weight = conv.find(handle)
    x, window, dense = x.detach().requires_grad_(True), weight.window, weight.to_dense()
    with torch.enable_grad():
        before = conv2d(x, dense, bias, residual, "none", window)
        before.retain_grad()
        activate(before, activation).backward(grad)
    assert x.grad is not None and before.grad is not None
    return x.grad, before.grad.clone()


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, residual = ctx.saved_tensors
    dx, dsum = torch.ops.rarefy.packed_conv2d_grad(grad, x, ctx.handle, bias, residual, ctx.activation)
    return dx, None, None if bias is None else dsum.sum((0, 2, 3)), None if residual is None else dsum, None


_library.impl("packed_conv2d_grad", _grad, "CPU")
torch.library.register_fake(
    "rarefy::packed_conv2d_grad",
    lambda grad, x, handle, bias, residual, activation: (torch.empty_like(x), torch.empty_like(grad)),
    lib=_library,
)
_library.impl("packed_conv2d", packed_conv2d, "CPU")
torch.library.register_fake("rarefy::packed_conv2d", _fake, lib=_library)
torch.library.register_autograd("rarefy::packed_conv2d", _backward, setup_context=_save, lib=_library)
