"""Convolutions whose weight is packed: what stands in for `nn.Conv2d` in a compiled model."""

import torch
from torch import Tensor, nn

from rarefy.engine.conv_plan import ConvPlan
from rarefy.ops import PackedConv, Pool


class SparseConv2d(nn.Module):
    """The convolution by the kernel that the plan has for the image; torch's where the plan says so.

    Inference only: gradients flow to x and the bias, the weight is frozen. The dense parameter is shared with the
    source model, not copied.
    """

    def __init__(self, source: nn.Conv2d, plan: ConvPlan) -> None:
        super().__init__()
        self.source, self.plan = source, plan

    def forward(self, x: Tensor) -> Tensor:
        packed = self.plan.at((x.shape[0], x.shape[2], x.shape[3])) if x.dim() == 4 else None
        if packed is None or x.dtype != torch.float32:
            out: Tensor = self.source(x)
            return out
        result: Tensor = torch.ops.rarefy.packed_conv2d(x, packed.handle, self.source.bias, None, "none")
        return result


class FusedConv2d(nn.Module):
    """act(conv(x) + bias + residual) inside a captured graph, where shapes and types are known to fit.

    The kernel is called without torch's dispatcher, which would cost as much as a small layer.
    """

    def __init__(self, packed: PackedConv, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.packed, self.activation = packed, activation
        self.bias: Tensor | None
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        residual = None if residual is None else residual.contiguous()
        return self.packed.convolve(x.contiguous(), self.bias, residual, self.activation)


class FusedConvPool(nn.Module):
    """max_pool(act(conv(x) + bias)), image by image: what lies between the two stays in the cache."""

    def __init__(self, conv: FusedConv2d, pool: Pool) -> None:
        super().__init__()
        self.conv, self.pool = conv, pool

    def forward(self, x: Tensor) -> Tensor:
        packed, x = self.conv.packed, x.contiguous()
        shape = packed.out_shape(x.shape)
        between, out = torch.empty(1, *shape[1:]), torch.empty(self.pool.out_shape(shape))
        for image, pooled in zip(x.split(1), out.split(1), strict=True):
            packed.convolve(image, self.conv.bias, None, self.conv.activation, between)
            self.pool.largest(between, pooled)
        return out


class MaxPool2d(nn.Module):
    """The largest value of each window, inside a captured graph."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool.largest(x.contiguous())


def with_sparse_convs(twin: nn.Module, plans: dict[str, ConvPlan]) -> nn.Module:
    """Puts `SparseConv2d` where a plan is, in place, into a copy of the model that may be changed."""
    if isinstance(twin, nn.Conv2d) and plans:
        return SparseConv2d(twin, next(iter(plans.values())))
    for plan in plans.values():
        for name in (plan.site.name, *plan.site.aliases):
            parent_name, _, leaf = name.rpartition(".")
            parent = twin.get_submodule(parent_name)
            source = getattr(parent, leaf)
            assert isinstance(source, nn.Conv2d)
            setattr(parent, leaf, SparseConv2d(source, plan))
    return twin
