"""The autograd function of really sparse layers: what it saves is its input and the kept weights, nothing dense."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, EngineError
from rarefy.ops import Layer
from rarefy.training.runtime.topology import Topology

Seen = Callable[[Tensor, Tensor], None]


class _Product(torch.autograd.Function):
    """y = the sparse layer of x `(images, ...)`, all float32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, topology: Topology, layer: Layer, seen: Seen | None
    ) -> Tensor:
        index = topology.index(layer)
        x = x.contiguous()
        ctx.index, ctx.topology, ctx.version, ctx.layer, ctx.seen = index, topology, topology.version, layer, seen
        ctx.save_for_backward(x, values)
        return index.forward(values, x, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise EngineError(
                "sparse layer: second derivatives (create_graph=True) are not there; take them of dense layers: "
                "trainer.unpack() before the forward pass makes those of a sparse training dense until the next step, "
                "to_dense() gives that of a SparseLinear or SparseConv2d"
            )
        if ctx.topology.version != ctx.version:
            raise EngineError("sparse layer: the topology was edited between forward and backward; edit after the step")
        x, values = ctx.saved_tensors
        grad = grads[0].contiguous()
        dx = ctx.index.input_grad(values, grad).view(x.shape) if ctx.needs_input_grad[0] else None
        dvalues = ctx.index.weight_grad(grad, x) if ctx.needs_input_grad[1] else None
        db = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if ctx.seen is not None:
            ctx.seen(x, grad)
        return dx, dvalues, db, None, None, None


def product(
    x: Tensor, values: Tensor, bias: Tensor | None, topology: Topology, layer: Layer, seen: Seen | None = None
) -> Tensor:
    """The layer's result `(images, *layer.out_image)` in x's type, or autocast's; sums are in float32.

    x: `(images, *layer.image)`, float32, bfloat16 or float16; seen: called with (x, gradient of the result) in the
    backward pass. Raises `DTypeError` for other types.
    """
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    for name, tensor in (("x", x), ("values", values)):
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise DTypeError(
                f"sparse layer: {name} is {tensor.dtype}; the kernels sum in float32, convert it with {name}.float()"
            )
    with torch.autocast("cpu", enabled=False):
        shift = None if bias is None else bias.float()
        y: Tensor = _Product.apply(x.float(), values.float(), shift, topology, layer, seen)
        return y.to(kind)
