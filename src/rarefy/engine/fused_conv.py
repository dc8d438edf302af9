"""Convolutions and poolings inside a captured graph, where shapes and types are known to fit.

Kernels are called without torch's dispatcher, which would cost as much as a small layer.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rarefy.engine.demand import Demand
from rarefy.ops import PackedConv, Pool


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


def demand_of(conv: FusedConv2d | FusedConvPool, image: Sequence[int], residual: bool) -> Demand:
    """What it has to do for an input (batch, channels, height, width); what the window finds in padding is counted."""
    packed = conv.packed if isinstance(conv, FusedConv2d) else conv.conv.packed
    between = packed.out_shape(image)
    out = between if isinstance(conv, FusedConv2d) else conv.pool.out_shape(between)
    flops = 2.0 * packed.nnz * between[0] * between[2] * between[3]
    moved = packed.nbytes + 4.0 * (math.prod(image) + math.prod(out) * (2 if residual else 1))
    return Demand(packed.kernel, flops, moved)
