"""Half a cosine between two values."""

import math
from dataclasses import dataclass

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method


@method("cosine", role="schedule", source="Dettmers and Zettlemoyer 2019, arXiv:1907.04840; RigL section 3 (2)")
@dataclass(frozen=True)
class Cosine:
    """final + (initial - final) / 2 * (1 + cos(pi * t / end)), held after `end`.

    >>> round(Cosine(initial=0.3, final=0.0, end=100)(50), 6)
    0.15
    """

    initial: float
    final: float
    end: int

    def __post_init__(self) -> None:
        if self.end <= 0:
            raise SparsityError(f"Cosine: end {self.end} is not positive; give the number of steps")

    def __call__(self, step: int) -> float:
        progress = min(1.0, max(0.0, step / self.end))
        return self.final + (self.initial - self.final) / 2 * (1.0 + math.cos(math.pi * progress))
