"""SLoRB: a small adapter beside a sparse weight that gives back the mean of what was pruned in each block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.shapes import Mask, Weight


class SLoRBLinear(nn.Linear):
    """`x W^T + (P x) S^T + bias`: P sums the inputs in blocks of `block` (the last may be shorter), S is trained.

    slorb: S, (out, ceil(in / block)).
    """

    block: int
    slorb: nn.Parameter

    @staticmethod
    def adopt(layer: nn.Linear, block: int) -> "SLoRBLinear":
        """Makes the layer one of this kind, in place, with S = 0; its weight and bias stay the same objects."""
        layer.__class__ = SLoRBLinear
        assert isinstance(layer, SLoRBLinear)
        layer.block = block
        blocks = -(-layer.in_features // block)
        layer.slorb = nn.Parameter(layer.weight.new_zeros(layer.out_features, blocks))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return y + F.linear(block_sums(x, self.block), self.slorb)


def block_sums(x: Tensor, block: int) -> Tensor:
    """P x: sums over blocks of the last dimension, `(..., ceil(n / block))`."""
    blocks = -(-x.shape[-1] // block)
    padded = F.pad(x, (0, blocks * block - x.shape[-1]))
    return padded.unflatten(-1, (blocks, block)).sum(-1)


def pruned_means(weight: Weight, mask: Mask, block: int) -> Tensor:
    """S at the start, (out, blocks): the mean over each block of the weights that were pruned there (0 for the kept).

    With inputs that are constant within a block, P x times this is what the pruned weights gave.
    """
    sums = block_sums(weight * ~mask, block)
    sizes = block_sums(torch.ones(weight.shape[1], dtype=weight.dtype), block)
    return sums / sizes
