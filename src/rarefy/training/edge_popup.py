"""Edge-popup: strong lottery tickets. Weights are never trained, only which of them are kept."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.training.cut import cut
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.run import Run

_FIXED = "fixed"


@dataclass(frozen=True)
class Popup:
    """The optimizer trains scores s behind the weights w: the forward pass sees w where |s| is among the largest.

    Gradient of s: g * w * sign(s), g that of the loss at the visible weight, for all entries.
    """

    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        state.extra[_FIXED] = state.master.clone()

    def view(self, weight: Weight, state: Any) -> Weight:
        return state.extra[_FIXED] * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad * state.extra[_FIXED] * weight.sign()

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight


@dataclass(frozen=True)
class PopupStart:
    """Random scores, and weights of one size in each layer where that is asked for."""

    constant: bool

    def __call__(self, run: Run) -> None:
        for state in run.states:
            assert state.master is not None
            bound = 1.0 / math.sqrt(state.weight.shape[1])
            state.master.copy_((2.0 * run.rand(state) - 1.0) * bound)
            if self.constant:
                size = math.sqrt(2.0 / (state.weight.shape[1] * state.density))
                fixed = state.extra[_FIXED]
                fixed.copy_(torch.where(fixed >= 0, size, -size))
        cut(run, Magnitude())


@method("edge-popup", source="Ramanujan et al. 2020, arXiv:1911.13299, section 3.1", protocols=("transform", "score"))
def edge_popup(
    *, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), constant: bool = True
) -> SparseMethod:
    """Finds a net inside the untrained one: scores are trained, weights of the largest scores are used as they are.

    constant: gives all weights of a layer the size `sqrt(2 / (fan_in * density))` and leaves their signs, the paper's
    best choice; else they stay as they are. Biases and norms are trained unless they are frozen.
    """
    return SparseMethod(PopupStart(constant), Refresh(1), Popup(), pattern=pattern, allocation=allocation)
