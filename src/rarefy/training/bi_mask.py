"""Bi-Mask: a backward N:M mask inside the forward one, rows permuted so that little is lost."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Mask, Weight
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.training.loaded import TakesAsIs
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.run import Run
from rarefy.training.starts import MagnitudeStart
from rarefy.training.two_way import MakeTwoWay, nm_of, set_backward

_ORDER = "order"


def backward_mask(weight: Weight, forward: Mask, order: Tensor, pattern: NM) -> Mask:
    """N of every M kept weights along the outputs in a given order of them, inside the forward mask.

    weight, forward: (out, in); order: (out,) a permutation.
    """
    score = (weight.float().abs() * forward)[order].t().contiguous()
    kept = PaddedNM(pattern.n, pattern.m).select(score, pattern.density).t()
    found = torch.empty_like(forward)
    found[order] = kept
    return found & forward


def best_order(weight: Weight, forward: Mask, orders: list[Tensor], pattern: NM) -> Tensor:
    """The order of the outputs whose backward mask keeps most weights, the first of equals."""
    counts = torch.tensor([int(backward_mask(weight, forward, order, pattern).sum()) for order in orders])
    return orders[int(counts.argmax())]


@dataclass(frozen=True)
class InsideForward(TakesAsIs):
    """Forward w * M_f; backward to the inputs w * M_b, M_b inside M_f; decay of what M_f drops, as in SR-STE."""

    decay: float = 2e-4
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        nm_of(state.pattern, "bi-mask")
        state.extra[_ORDER] = torch.arange(state.weight.shape[0])

    def view(self, weight: Weight, state: Any) -> Weight:
        inside = backward_mask(weight, state.mask, state.extra[_ORDER], nm_of(state.pattern, "bi-mask"))
        set_backward(state.weight.modules, state.weight.as_parameter(weight * inside))
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad + self.decay * (weight * ~state.mask)

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight


@dataclass(frozen=True)
class Reorder:
    """Masks anew at every step; every `every` steps the best of `candidates` random orders and the one in use."""

    every: int
    candidates: int
    needs_end: ClassVar[bool] = False

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        Refresh(1).after(run)
        if (run.step + 1) % self.every == 0:
            for state in run.moving:
                self.reorder(run, state)

    def reorder(self, run: Run, state: Any) -> None:
        """Chooses the order of one weight's outputs."""
        rows = state.weight.shape[0]
        drawn = [torch.randperm(rows, generator=run.generator) for _ in range(self.candidates)]
        orders = [state.extra[_ORDER], torch.arange(rows), *drawn]
        pattern = nm_of(state.pattern, "bi-mask")
        state.extra[_ORDER] = run.agreed(best_order(state.value(), state.mask, orders, pattern))


@method("bi-mask", source="Zhang et al. 2023, arXiv:2302.06058, section 3.3", protocols=("pattern", "transform"))
def bi_mask(
    *, pattern: Pattern = NM(2, 4), every: int = 100, candidates: int = 100, decay: float = 2e-4
) -> SparseMethod:
    """N:M for x W and for dy W^T at once, without a common mask: outputs are permuted until little is lost.

    pattern: N:M. every: steps between searches of an order, among `candidates` random ones (100 and 100 in the paper).
    The backward mask acts in linear layers and 2-d convolutions; others go back through their forward weight, and a
    warning names them.
    Differs: the order in use and the plain one are candidates too, so a search never makes it worse.
    """
    nm_of(pattern, "bi-mask")
    if every < 1 or candidates < 0:
        raise SparsityError(f"bi-mask: every={every}, candidates={candidates}; give at least one step, and 0 or more")
    topology = Reorder(every, candidates)
    return SparseMethod(
        MagnitudeStart(), topology, InsideForward(decay), pattern=pattern, prepare=MakeTwoWay("bi-mask")
    )
