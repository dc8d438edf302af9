"""Top-KAST: forward with the largest weights, backward with a few more."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Mask, Weight
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.loaded import TakesAsIs
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.run import Run
from rarefy.training.starts import MagnitudeStart
from rarefy.training.state import WeightState

_BACKWARD = "backward"


def backward_set(weight: Weight, forward: Mask, density: float) -> Mask:
    """The forward set and, beyond it, the largest of the other weights, at `density` in all (none if below)."""
    count = max(int(forward.count_nonzero()), exact_count(forward.numel(), density))
    score = weight.float().abs().masked_fill(forward, float("inf"))
    return keep_top(score.reshape(1, -1), count).reshape(forward.shape)


@dataclass(frozen=True)
class ForwardBackward(TakesAsIs):
    """The forward pass sees the mask A of the dense weight; B, a superset of A, gets its gradient; the rest stays.

    Gradient: (g + decay * w * [1 on A, 1 / D on B without A]) on B, D being the density of A. What moves between A and
    the rest of B is trained all along, so the optimizer goes on with its memory of it; what leaves B takes no more
    steps, and what the optimizer remembers of it is forgotten.
    """

    decay: float = 1e-4
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        state.extra[_BACKWARD] = state.mask.clone()

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        push = self.decay * weight * torch.where(state.mask, 1.0, 1.0 / state.density)
        return (grad + push.to(grad.dtype)) * state.extra[_BACKWARD]

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return torch.where(state.extra[_BACKWARD], weight, state.master)


@dataclass(frozen=True)
class RefreshBoth:
    """`Refresh` of A and B every `every` steps; from the share `end` on both stay, and B is A."""

    refresh: Refresh
    extra: float
    end: float

    @property
    def needs_end(self) -> bool:
        return self.end < 1.0

    @property
    def exchanges(self) -> Clock:
        return Clock(self.refresh.every, 0.0, self.end)

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        last = None if self.end >= 1.0 else round(self.end * run.end("top-kast"))
        if last is None or run.step + 1 < last:
            self.refresh.after(run)
        for state in run.moving:
            if last is not None and run.step + 1 >= last:
                self._put(run, state, state.mask.clone())
            elif (run.step + 1) % self.refresh.every == 0:
                self.widen(run, state)

    def widen(self, run: Run, state: WeightState) -> None:
        """Chooses B of one weight."""
        self._put(run, state, backward_set(state.value(), state.mask, min(1.0, state.density + self.extra)))

    def _put(self, run: Run, state: WeightState, backward: Mask) -> None:
        before = state.extra[_BACKWARD]
        state.extra[_BACKWARD] = backward
        changed = before ^ backward
        if bool(changed.any()):
            run.forget(state, changed, backward & ~before)


@dataclass(frozen=True)
class WideStart:
    """The largest weights as A, and B around them."""

    topology: RefreshBoth
    start: MagnitudeStart = field(default_factory=MagnitudeStart)

    def __call__(self, run: Run) -> None:
        self.start(run)
        for state in run.states:
            self.topology.widen(run, state)


@method("top-kast", source="Jayakumar et al. 2020, arXiv:2106.03517, section 2", protocols=("transform",))
def top_kast(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    extra: float = 0.1,
    every: int = 100,
    end: float = 1.0,
    decay: float = 1e-4,
) -> SparseMethod:
    """Forward with the largest weights at the asked density D, gradients for the largest D + `extra` of each weight.

    The next weights in size train unseen, and come in when they have grown. every: steps between choices of the two
    sets; end: the share of total_steps from which only the forward set is trained; decay: of kept weights, and 1 / D
    times it of the others that are trained. `pattern` rules the forward set; the others are the largest of the matrix.
    """
    if extra < 0.0:
        raise SparsityError(f"top-kast: extra {extra} is negative; give the density that is trained unseen")
    if not 0.0 < end <= 1.0:
        raise SparsityError(f"top-kast: end {end} is no share of the steps; give 0 < end <= 1")
    topology = RefreshBoth(Refresh(every), extra, end)
    return SparseMethod(WideStart(topology), topology, ForwardBackward(decay), pattern=pattern, allocation=allocation)
