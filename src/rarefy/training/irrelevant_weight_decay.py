"""Weight decay for weights that the loss does not care about, and pruning in rounds."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.free_pattern import FreePattern
from rarefy.training.gradual import Gradual
from rarefy.training.method import SparseMethod, Topology
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart
from rarefy.training.together import together
from rarefy.training.trial_loss import loss_now, loss_with, require_data
from rarefy.training.turns import shared_out, turn

_HALVINGS = 8


@dataclass(frozen=True)
class DecayIrrelevant:
    """Adds strength * I * w to the gradient of kept weights, I = exp(-|g| / (scale * mean |g| of the kept)).

    I is held constant: weights whose gradient is large take the plain step, the others decay in full. scale = inf is
    ordinary L2 decay.
    """

    strength: float = 1e-3
    scale: float = 1.0
    wants_dense_grad: ClassVar[bool] = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = False

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        size = (grad * state.mask).abs()
        if math.isfinite(self.scale):
            size = size / (self.scale * size.sum() / max(1, state.kept)).clamp_min(1e-30)
            return (grad + self.strength * (-size).exp() * weight) * state.mask
        return torch.add(grad, weight, alpha=self.strength) * state.mask

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask


@dataclass(frozen=True)
class InRounds:
    """At every tick as many of the smallest weights go as the loss tolerates, until the asked density or a round fails.

    A round may raise the loss on the user's data to (1 + tolerance) times what it is before; the count is found by
    halving between none and all that are left to go. Weights of all layers compete.
    """

    tolerance: float
    clock: Clock = field(default_factory=Clock)

    @property
    def needs_end(self) -> bool:
        return self.clock.needs_end

    @property
    def exchanges(self) -> Clock:
        return self.clock

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        done = run.step + 1
        if run.memory.get("over") or not self.clock.due(run, "irrelevant-weight-decay", done):
            self._catch_up(run)
            return
        require_data(run, "irrelevant-weight-decay")
        size = sum(state.mask.numel() for state in run.states)
        now = sum(state.kept for state in run.states) / size
        limit = loss_now(run) * (1.0 + self.tolerance)
        fails, holds = run.density, now  # densities
        for step in range(_HALVINGS + 1):
            tried = fails if step == 0 else (fails + holds) / 2.0
            if loss_with(run, self._masks(run, tried)) <= limit:
                holds = tried
            else:
                fails = tried
            if holds == run.density:
                break
        if holds < now:
            for state, mask in shared_out(run, self._masks(run, holds)):
                run.set_mask(state, mask & state.mask)
        run.memory["over"] = holds >= now or holds == run.density

    def _catch_up(self, run: Run) -> None:
        """Weights that had no gradient in a round keep as many of their largest as it gave them."""
        for state in turn(run, due=False):
            score = state.value().float().abs().masked_fill(~state.mask, -1.0)
            run.set_mask(state, state.pattern.select(score, state.density) & state.mask)

    def _masks(self, run: Run, density: float) -> list[Any]:
        scores = [s.value().float().abs().masked_fill(~s.mask, -1.0) for s in run.states]
        return together(scores, density)


@method(
    "irrelevant-weight-decay",
    source="Bonetta et al. 2022, arXiv:2204.04977, section 3",
    protocols=("transform", "schedule"),
)
def irrelevant_weight_decay(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    strength: float = 1e-3,
    scale: float = 1.0,
    tolerance: float | None = None,
    every: int = 100,
    begin: float = 0.2,
    end: float = 0.75,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Decays the weights whose loss gradient is small, and prunes the smallest, gradually or as the loss tolerates.

    strength: of the decay; scale: gradients of how many mean gradients still count as small. tolerance: without it the
    pruning is that of "gmp-zhu-gupta"; with it each tick prunes as far as the loss on `data` stays below (1 +
    tolerance) times itself, at most down to the asked sparsity, and ends when nothing more can go: what is reached is
    seen in the report. Turn the optimizer's own weight decay off.
    Differs: the paper's published text was not at hand for its exact I in [0, 1], only that it falls with |dL/dw|; here
    it is an exponential in units of the layer's mean gradient.
    """
    if strength < 0.0 or scale <= 0.0:
        raise SparsityError(f"irrelevant-weight-decay: strength={strength}, scale={scale}; give >= 0 and > 0")
    if tolerance is not None and tolerance < 0.0:
        raise SparsityError(f"irrelevant-weight-decay: tolerance {tolerance} is negative; give e.g. 0.01 for 1 %")
    clock = Clock(every, begin, end)
    topology: Topology = Gradual(clock, schedule) if tolerance is None else InRounds(tolerance, clock)
    decay = DecayIrrelevant(strength, scale)
    exact = tolerance is None
    return SparseMethod(
        DenseStart(),
        topology,
        decay,
        pattern=pattern,
        allocation=allocation,
        prepare=None if exact else FreePattern("irrelevant-weight-decay with a tolerance"),
        exact=exact,
    )
