"""The `torch.library` operations of the namespace `rarefy`: shapes for tracing, autograd, checks, native or reference.

packed_linear(x, handle, bias, activation, out_features)   act(x W^T + bias), the weight packed and frozen
packed_input_grad(grad, handle, in_features)               grad W, its input gradient
csr_linear(x, values, columns, row_offsets, bias, out_features)   x W^T + bias, the weight in compressed rows, trained
csr_input_grad(grad, values, columns, row_offsets, in_features)   grad W
sddmm(grad, x, columns, row_offsets)                       the gradient of `values`: grad^T x on the support only

x and grad may have any leading shape. Everything is float32 on the CPU.
"""

from typing import Any

import torch
from torch import Tensor

from rarefy.ops import csr, packed, reference
from rarefy.ops.checks import require_bias, require_floats, require_last

_library = torch.library.Library("rarefy", "DEF")
_library.define("packed_linear(Tensor x, int handle, Tensor? bias, str activation, int out_features) -> Tensor")
_library.define("packed_input_grad(Tensor grad, int handle, int in_features) -> Tensor")
_library.define(
    "csr_linear(Tensor x, Tensor values, Tensor columns, Tensor row_offsets, Tensor? bias, int out_features) -> Tensor"
)
_library.define(
    "csr_input_grad(Tensor grad, Tensor values, Tensor columns, Tensor row_offsets, int in_features) -> Tensor"
)
_library.define("sddmm(Tensor grad, Tensor x, Tensor columns, Tensor row_offsets) -> Tensor")


def _packed_linear(x: Tensor, handle: int, bias: Tensor | None, activation: str, out_features: int) -> Tensor:
    weight = packed.find(handle)
    where = "rarefy::packed_linear"
    require_floats(where, x=x, bias=bias)
    require_last(where, x, weight.shape[1])
    require_bias(where, bias, weight.shape[0])
    if out_features != weight.shape[0]:
        raise packed.ShapeError(f"{where}: out_features is {out_features}, the packed weight has {weight.shape[0]}")
    if activation not in packed.ACTIVATIONS:
        raise packed.unknown_name(f"{where}: activation", activation, packed.ACTIVATIONS)
    rows = x.reshape(-1, weight.shape[1]) if x.numel() else x.new_empty(x.shape[:-1].numel(), weight.shape[1])
    out = weight.multiply(rows.contiguous(), None if bias is None else bias.contiguous(), activation)
    return out.view(*x.shape[:-1], out_features)


def _packed_input_grad(grad: Tensor, handle: int, in_features: int) -> Tensor:
    weight = packed.find(handle)
    where = "rarefy::packed_input_grad"
    require_floats(where, grad=grad)
    require_last(where, grad, weight.shape[0])
    if in_features != weight.shape[1]:
        raise packed.ShapeError(f"{where}: in_features is {in_features}, the packed weight has {weight.shape[1]}")
    return grad @ weight.to_dense()


_library.impl("packed_linear", _packed_linear, "CPU")
_library.impl("packed_input_grad", _packed_input_grad, "CPU")
_library.impl("csr_linear", csr.linear, "CPU")
_library.impl("csr_input_grad", csr.input_grad, "CPU")
_library.impl("sddmm", csr.sddmm, "CPU")


def _like(x: Tensor, last: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], last)


torch.library.register_fake(
    "rarefy::packed_linear", lambda x, handle, bias, activation, out_features: _like(x, out_features), lib=_library
)
torch.library.register_fake(
    "rarefy::packed_input_grad", lambda grad, handle, in_features: _like(grad, in_features), lib=_library
)
torch.library.register_fake(
    "rarefy::csr_linear",
    lambda x, values, columns, row_offsets, bias, out_features: _like(x, out_features),
    lib=_library,
)
torch.library.register_fake(
    "rarefy::csr_input_grad",
    lambda grad, values, columns, row_offsets, in_features: _like(grad, in_features),
    lib=_library,
)
torch.library.register_fake(
    "rarefy::sddmm", lambda grad, x, columns, row_offsets: x.new_empty(columns.shape[0]), lib=_library
)


def _sum_tokens(grad: Tensor) -> Tensor:
    return grad.reshape(-1, grad.shape[-1]).sum(0)


def _save_packed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.handle, bias, ctx.activation, ctx.out_features = inputs
    ctx.in_features = x.shape[-1]
    ctx.save_for_backward(*((x, bias) if ctx.activation != "none" else (None, None)))


def _packed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.activation != "none":  # the sum before the activation is computed again: cheaper than keeping it
        x, bias = ctx.saved_tensors
        before = torch.ops.rarefy.packed_linear(x, ctx.handle, bias, "none", ctx.out_features)
        grad = reference.activation_gradient(grad.contiguous(), before, ctx.activation)
    dx = torch.ops.rarefy.packed_input_grad(grad, ctx.handle, ctx.in_features) if ctx.needs_input_grad[0] else None
    return dx, None, _sum_tokens(grad) if ctx.needs_input_grad[2] else None, None, None


def _save_csr(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _csr_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, values, columns, row_offsets = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = torch.ops.rarefy.csr_input_grad(grad, values, columns, row_offsets, x.shape[-1]) if needs[0] else None
    dvalues = torch.ops.rarefy.sddmm(grad, x, columns, row_offsets) if needs[1] else None
    return dx, dvalues, None, None, _sum_tokens(grad) if needs[4] else None, None


torch.library.register_autograd("rarefy::packed_linear", _packed_backward, setup_context=_save_packed, lib=_library)
torch.library.register_autograd("rarefy::csr_linear", _csr_backward, setup_context=_save_csr, lib=_library)
