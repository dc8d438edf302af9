"""Fast at first, slow at the end: the gradual pruning curve."""

from dataclasses import dataclass

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method


@method("cubic", role="schedule", source="Zhu and Gupta 2017, arXiv:1710.01878, eq. 1")
@dataclass(frozen=True)
class Cubic:
    """final + (initial - final) * (1 - (t - begin) / (end - begin))^3, held before `begin` and after `end`.

    >>> Cubic(initial=1.0, final=0.5, begin=0, end=10)(5)
    0.5625
    """

    initial: float
    final: float
    begin: int
    end: int

    def __post_init__(self) -> None:
        if self.end <= self.begin:
            raise SparsityError(f"Cubic: end {self.end} is not after begin {self.begin}; give begin < end")

    def __call__(self, step: int) -> float:
        progress = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.final + (self.initial - self.final) * (1.0 - progress) ** 3
