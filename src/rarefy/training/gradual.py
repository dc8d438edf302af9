"""Gradual pruning: the density falls along a curve while the net is trained."""

from dataclasses import dataclass, field
from typing import ClassVar

from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Schedule, Score
from rarefy.patterns.fixed import fixed_density
from rarefy.schedules.cubic import Cubic
from rarefy.scores.magnitude import Magnitude
from rarefy.training.clock import Clock
from rarefy.training.options import require_schedule
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.turns import turn


@dataclass(frozen=True)
class Gradual:
    """At every tick a weight keeps its largest entries, at the density of the moment; nothing comes back. One without
    a gradient then does so at its next step with one.

    schedule: how far each weight has gone, from 1 (dense) to 0 (its final density), over the steps; without it the
    cubic curve over the clock's window. The density of a weight with final density d is d + (1 - d) * schedule(step).
    """

    clock: Clock = field(default_factory=Clock)
    schedule: Schedule | None = None
    score: Score = field(default_factory=Magnitude)
    needs_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_schedule("schedule", self.schedule)

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        due = how_far(self.clock, self.schedule, run) is not None
        for state in turn(run, due):
            with run.opened(state):
                self._prune(run, state, reached(self.clock, self.schedule, run))

    def wants_gradient(self, run: Run) -> bool:
        return False

    def _prune(self, run: Run, state: WeightState, left: float) -> None:
        density = state.density + (1.0 - state.density) * left
        if fixed_density(state.pattern) is not None and left > 0:
            return  # N:M has one density: it is reached at the end
        score = self.score(state.value().float(), Evidence(state.name)).masked_fill(~state.mask, float("-inf"))
        run.set_mask(state, state.pattern.select(score, density) & state.mask)


def how_far(clock: Clock, schedule: Schedule | None, run: Run) -> float | None:
    """How much of the way is left after this step, from 1 (dense) to 0 (final); None where the clock does not tick.

    Without a schedule the cubic curve over the clock's window, at whose end nothing is left in any case.
    """
    done = run.step + 1
    first, last = clock.window(run, "gradual pruning")
    if done != last and not (first <= done < last and (done - first) % clock.every == 0):
        return None
    return reached(clock, schedule, run)


def reached(clock: Clock, schedule: Schedule | None, run: Run) -> float:
    """How much of the way was left at the clock's last tick, the one after this step or one that has gone by."""
    done, (first, last) = run.step + 1, clock.window(run, "gradual pruning")
    if done >= last:
        return 0.0
    curve = schedule or Cubic(1.0, 0.0, first, max(first + 1, last))
    return curve(done - (done - first) % clock.every)
