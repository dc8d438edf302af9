"""Masks that follow a dense weight: chosen anew from it every few steps."""

from dataclasses import dataclass, field
from typing import ClassVar

from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Score
from rarefy.scores.magnitude import Magnitude
from rarefy.training.clock import Clock
from rarefy.training.cut import cut
from rarefy.training.run import Run


@dataclass(frozen=True)
class Refresh:
    """Every `every` steps the mask is the pattern's choice by the score of the dense weight."""

    every: int = 1
    score: Score = field(default_factory=Magnitude)
    needs_end: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SparsityError(f"every: {self.every} is not a number of steps; give at least 1")

    @property
    def exchanges(self) -> Clock:
        return Clock(self.every, 0.0, 1.0)

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        if (run.step + 1) % self.every:
            return
        cut(run, self.score)
