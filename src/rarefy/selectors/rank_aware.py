"""A linear layer whose dropped inputs still pass through a low-rank copy of its weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.core.errors import ShapeError
from rarefy.selectors.matrix import weight_of


class RankAware(nn.Linear):
    """`W kept + left (right rest)`: kept and rest come from the selector on its input; without one it is `W x`.

    left `(out, rank)` and right `(rank, in)` are buffers: the singular vectors of W, the values in `right`.
    transposed: whether the layer in whose place it stands has its weight as `(in, out)`; here it is `(out, in)`.
    Source: Zhang et al. 2025, arXiv:2504.19449, eq. 4.
    """

    wants_rest = True
    transposed = False
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, layer: Any, left: Tensor, right: Tensor) -> RankAware:
        """The layer with these factors; it keeps the layer's own parameters where it is an nn.Linear."""
        weight = weight_of(layer)
        made = cls(weight.shape[1], weight.shape[0], bias=False, device="meta")
        made.weight = layer.weight if isinstance(layer, nn.Linear) else nn.Parameter(weight.contiguous())
        made.transposed = type(layer).__name__ == "Conv1D"
        if layer.bias is not None:
            made.bias = layer.bias
        made.register_buffer("left", left)
        made.register_buffer("right", right)
        made.train(layer.training)
        for key, hook in layer._forward_pre_hooks.items():
            made.register_forward_pre_hook(hook, with_kwargs=key in layer._forward_pre_hooks_with_kwargs)
        return made

    def cut(self, rank: int) -> None:
        """Keeps the first `rank` components."""
        if not 0 <= rank <= self.right.shape[0]:
            raise ShapeError(f"RankAware.cut: rank {rank} is outside [0, {self.right.shape[0]}]")
        self.left, self.right = self.left[:, :rank].contiguous(), self.right[:rank].contiguous()

    def forward(self, input: Tensor, rest: Tensor | None = None) -> Tensor:
        out = super().forward(input)
        return out if rest is None or not len(self.right) else out + F.linear(F.linear(rest, self.right), self.left)
