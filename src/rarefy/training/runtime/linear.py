"""A linear layer that is really sparse in training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rarefy.core.errors import ShapeError
from rarefy.core.shapes import Mask
from rarefy.ops import Layer
from rarefy.training.runtime.function import Seen, product
from rarefy.training.runtime.module import SparseModule
from rarefy.training.runtime.topology import Topology


class SparseLinear(SparseModule):
    """`x W^T + b` where only the kept entries of W exist; forward and backward skip the others.

    topology: `(out_features, in_features)`.

    Source: Nikdan et al. 2023 (SparseProp), arXiv:2302.04852, algorithms 1 and 2.
    Differs: the input gradient goes by a second index, by columns: sums stay in registers and threads never meet.

    >>> layer = SparseLinear(8, 4, Topology(torch.eye(4, 8, dtype=torch.bool)))
    >>> layer(torch.ones(2, 8)).shape, layer.values.shape
    (torch.Size([2, 4]), torch.Size([4]))
    """

    def __init__(self, in_features: int, out_features: int, topology: Topology, bias: bool = True) -> None:
        if topology.shape != (out_features, in_features):
            raise ShapeError(
                f"SparseLinear: the topology is {topology.shape}, the layer's weight ({out_features}, {in_features})"
            )
        super().__init__(topology, bias)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def from_dense(cls, source: nn.Linear, mask: Mask) -> "SparseLinear":
        """The kept weights of a linear layer, with a copy of its bias."""
        made = cls(source.in_features, source.out_features, Topology(mask), bias=source.bias is not None)
        made._copy(source)
        return made

    def to_dense(self) -> nn.Linear:
        """The same layer as a dense one with exact zeros."""
        made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, dtype=self.values.dtype)
        return self._copy_back(made)

    @torch.compiler.disable  # addresses of memory are nothing to trace
    def forward(self, x: Tensor) -> Tensor:
        """x `(..., in_features)`, any number of tokens."""
        return linear_product(x, self.values, self.bias, self.topology, self._seen)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, density={self.topology.density:.4g}"


def linear_product(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    topology: Topology,
    seen: Callable[[Layer], Seen | None],
) -> Tensor:
    """`x W^T + b`, x `(..., in)`, for the kept values of a weight `(out, in)`; seen: who watches the backward pass."""
    out, width = topology.shape
    if x.dim() == 0 or x.shape[-1] != width:
        raise ShapeError(f"SparseLinear: x has shape {tuple(x.shape)}; its last dimension must be {width}")
    layer = Layer(out, (width, 1, 1))
    y = product(x.reshape(-1, width), values, bias, topology, layer, seen(layer))
    return y.view(*x.shape[:-1], out)
