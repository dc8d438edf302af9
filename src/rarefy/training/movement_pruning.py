"""Movement pruning as training: scores learn from the gradients which weights move away from zero."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.core.shapes import Mask, Weight
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.free_pattern import FreePattern
from rarefy.training.gradual import how_far, reached
from rarefy.training.loaded import TakesAsIs
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart
from rarefy.training.state import WeightState
from rarefy.training.together import together
from rarefy.training.turns import shared_out, turn

_SCORE = "movement"


@dataclass(frozen=True)
class Moving(TakesAsIs):
    """S <- S - rate * (g * w + push * sigmoid'(S)) for all weights, kept or not; w itself trains where it is kept.

    g is the gradient at the masked weight, so g * w is the straight-through gradient of a mask entry. What is dropped
    keeps its value behind the mask and comes back with it; it takes no steps there, so the optimizer's memory of it
    would be stale and is forgotten, as `ByMovement` changes the masks.
    Source: Sanh et al. 2020, arXiv:2005.07683, eq. 4 and section 4.2 (push: its lambda_mvp).
    """

    rate: float = 1.0
    push: float = 0.0
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        state.extra[_SCORE] = torch.zeros(state.weight.shape)

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        score = state.extra[_SCORE]
        gradient = (grad * weight).float()
        if self.push:
            half = score.sigmoid()
            gradient = gradient + self.push * half * (1.0 - half)
        state.extra[_SCORE] = score - self.rate * gradient
        return grad * state.mask

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return torch.where(state.mask, weight, state.master)


@dataclass(frozen=True)
class ByMovement:
    """Masks of the largest scores, at a density that falls along a curve; `soft`: one threshold for all weights."""

    clock: Clock
    schedule: Schedule | None = None
    soft: bool = False
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        now = how_far(self.clock, self.schedule, run)
        if self.soft and now is not None:
            scores = [state.extra[_SCORE] for state in run.states]
            for state, mask in shared_out(run, together(scores, run.density + (1.0 - run.density) * now)):
                _change(run, state, mask)
            return
        for state in turn(run, now is not None):
            left = 0.0 if self.soft else reached(self.clock, self.schedule, run)
            if fixed_density(state.pattern) is None or left == 0.0:
                density = state.density + (1.0 - state.density) * left
                _change(run, state, state.pattern.select(state.extra[_SCORE], density))


def _change(run: Run, state: WeightState, mask: Mask) -> None:
    """What is dropped or comes back has no memory of the optimizer's."""
    before = state.mask
    run.set_mask(state, mask)
    run.forget(state, before ^ state.mask, state.mask & ~before)


@method("movement-pruning", source="Sanh et al. 2020, arXiv:2005.07683, section 4", protocols=("score", "transform"))
def movement_pruning(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    soft: bool = False,
    every: int = 10,
    begin: float = 0.1,
    end: float = 0.75,
    rate: float = 1.0,
    push: float = 0.0,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Fine-tunes and keeps the weights that move away from zero; scores of dropped ones go on, and they may return.

    soft: one threshold for the scores of all weights together in place of the asked share of each, `push` being the
    weight of the penalty sigmoid(S) in its scores. rate: of the scores; it changes no ranking while `push` is 0.
    begin, end, every, schedule: of the density, as for "gmp-zhu-gupta"; masks are chosen anew at each tick.
    Differs: scores are plain sums of gradients where the paper lets Adam train them; its soft threshold is a constant,
    and what density comes of it is seen afterwards, while here it is the one that gives the asked density.
    """
    topology = ByMovement(Clock(every, begin, end), schedule, soft)
    return SparseMethod(
        DenseStart(),
        topology,
        Moving(rate, push),
        pattern=pattern,
        allocation=allocation,
        prepare=FreePattern("movement-pruning, soft") if soft else None,
        exact=not soft,
    )
