"""Convolutions and poolings inside a captured graph, where shapes and types are known to fit.

Kernels are called without torch's dispatcher, which would cost as much as a small layer.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rarefy.engine.demand import Demand
from rarefy.ops import PackedConv, Pool
from rarefy.ops.conv8 import PackedConv8, Scale
from rarefy.ops.words import words_of


class FusedConv2d(nn.Module):
    """act(conv(x) + bias + residual)."""

    def __init__(self, packed: PackedConv, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.packed, self.activation = packed, activation
        self.bias: Tensor | None
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        residual = None if residual is None else residual.contiguous()
        return self.packed.convolve(x.contiguous(), self.bias, residual, self.activation)


class FusedConv8(nn.Module):
    """The same with 8-bit weights and inputs; runs of them keep images as words (`engine.conv_region`).

    x_scale, residual_scale, to_scale: of the two inputs and the result as words, where they are known in advance; by
    itself the module rounds each image by its own range and gives floats.
    """

    def __init__(self, packed: PackedConv8, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.packed, self.activation = packed, activation
        self.bias: Tensor | None
        self.register_buffer("bias", bias)
        self.x_scale: Scale | None = None
        self.residual_scale: Scale | None = None
        self.to_scale: Scale | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = self.packed.convolve(words_of(x, self.x_scale), self.bias, residual, self.activation)
        assert isinstance(out, Tensor)  # no scale was asked for
        return out


class FusedConvPool(nn.Module):
    """max_pool(act(conv(x) + bias)), a few rows at a time: what lies between the two stays in the cache."""

    def __init__(self, conv: FusedConv2d, pool: Pool) -> None:
        super().__init__()
        self.conv, self.pool = conv, pool

    def forward(self, x: Tensor) -> Tensor:
        return self.conv.packed.convolve_pooled(x.contiguous(), self.conv.bias, self.conv.activation, self.pool)


class MaxPool2d(nn.Module):
    """The largest value of each window."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool.largest(x.contiguous())


def demand_of(
    step: FusedConv2d | FusedConv8 | FusedConvPool | MaxPool2d, image: Sequence[int], residual: bool
) -> Demand:
    """What it has to do for an input (batch, channels, height, width); what the window finds in padding is counted."""
    if isinstance(step, MaxPool2d):
        return Demand(nbytes=4.0 * (math.prod(image) + math.prod(step.pool.out_shape(image))))
    conv = step.conv if isinstance(step, FusedConvPool) else step
    between = conv.packed.out_shape(image)
    out = step.pool.out_shape(between) if isinstance(step, FusedConvPool) else between
    item = 1.0 if isinstance(step, FusedConv8) else 4.0
    products = conv.packed.products if isinstance(conv.packed, PackedConv) else conv.packed.nnz
    flops = 2.0 * products * between[0] * between[2] * between[3]
    moved = conv.packed.nbytes + item * (math.prod(image) + math.prod(out) * (2 if residual else 1))
    return Demand(conv.packed.kernel, flops, moved)
