"""A transform under which only some of the kept weights move."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rarefy.core.shapes import Weight

MOVES = "moves"  # in state.extra: the entries that the optimizer may change, (out, in)
_BEFORE = "before"


@dataclass(frozen=True)
class Held:
    """As `Masked`, and of what is kept only `state.extra[MOVES]` is updated: the rest is the same bit for bit.

    Neither momentum nor weight decay moves what is held. wants_dense_grad: whether the optimizer sees the gradients of
    dropped entries, so that its memory of them can guide growth.
    """

    wants_dense_grad: bool = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = False

    def init(self, state: Any) -> None:
        state.extra[MOVES] = torch.ones(state.weight.shape, dtype=torch.bool)

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        state.extra[_BEFORE] = weight.clone()
        return grad if self.wants_dense_grad else grad * (state.mask & state.extra[MOVES])

    def on_step(self, weight: Weight, state: Any) -> Weight:
        before = state.extra.pop(_BEFORE, weight)
        return torch.where(state.extra[MOVES], weight, before) * state.mask
