"""One cut: dense until a moment, then the largest weights for good."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Score
from rarefy.scores.magnitude import Magnitude
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.turns import turn


@dataclass(frozen=True)
class Cut:
    """At the share `at` of total_steps every weight keeps its best entries, which then never change."""

    at: float = 0.75
    score: Score = field(default_factory=Magnitude)
    needs_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 < self.at <= 1.0:
            raise SparsityError(f"at: {self.at} is no share of the steps; give 0 < at <= 1")

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        due = run.step + 1 == max(1, round(self.at * run.end("the cut")))
        cut(run, self.score, turn(run, due))

    def wants_gradient(self, run: Run) -> bool:
        return False


def cut(run: Run, score: Score, states: Sequence[WeightState] | None = None) -> None:
    """Weights keep their best entries at their densities: all that the step under way may change, or the given ones."""
    for state in run.moving if states is None else states:
        with run.opened(state):
            found = score(state.value().float(), Evidence(state.name))
            run.set_mask(state, state.pattern.select(found, state.density))
