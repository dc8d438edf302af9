"""BDWP: N:M weights in the forward and, along the other axis, in the backward product."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rarefy.core.protocols import Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.training.loaded import TakesAsIs
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.starts import MagnitudeStart
from rarefy.training.two_way import MakeTwoWay, nm_of, set_backward


def backward_weight(weight: Weight, pattern: NM) -> Weight:
    """W_bp (out, in): of every M outputs the N largest; a rest of fewer than M keeps up to N."""
    padded = PaddedNM(pattern.n, pattern.m)
    return weight * padded.select(weight.float().abs().t().contiguous(), pattern.density).t()


@dataclass(frozen=True)
class BothWays(TakesAsIs):
    """Forward w * N:M along inputs, backward to the inputs w * N:M along outputs, both by magnitude of the dense w.

    The weight gradient is dense and updates all of w; decay: of what the forward pass drops, as in "sr-ste".
    """

    decay: float = 0.0
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        nm_of(state.pattern, "bdwp")  # nothing to remember: the backward weight follows from the dense one

    def view(self, weight: Weight, state: Any) -> Weight:
        set_backward(
            state.weight.modules, state.weight.as_parameter(backward_weight(weight, nm_of(state.pattern, "bdwp")))
        )
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad + self.decay * (weight * ~state.mask) if self.decay else grad

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight


@method("bdwp", source="Fang et al. 2023, arXiv:2309.13015, section III", protocols=("pattern", "transform"))
def bdwp(*, pattern: Pattern = NM(2, 8), every: int = 1, decay: float = 0.0) -> SparseMethod:
    """N:M in two of the three products of training: x W along the inputs and dy W^T along the outputs.

    pattern: N:M. every: steps between choices of the forward mask. The backward weight of linear layers and 2-d
    convolutions is chosen at each step; other layers (recurrent, attention projections) go back through their forward
    weight, and a warning names them. `two_way.one_way(model)` makes the layers ordinary again. The decay is that of
    "sr-ste", off in the paper.
    """
    nm_of(pattern, "bdwp")
    return SparseMethod(MagnitudeStart(), Refresh(every), BothWays(decay), pattern=pattern, prepare=MakeTwoWay("bdwp"))


def sparse_products(pattern: NM) -> float:
    """The share of the multiplications of dense training that is left: (2 N / M + 1) / 3.

    >>> sparse_products(NM(2, 8))
    0.5
    """
    return (2.0 * pattern.density + 1.0) / 3.0
