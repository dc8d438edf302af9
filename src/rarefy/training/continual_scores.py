"""What a continual training is judged by: the accuracies of all tasks after each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rarefy.core.errors import DataError


@dataclass(frozen=True)
class ContinualScores:
    """accuracy: `accuracy[i][j]` of task j after learning task i, for j <= i.

    >>> scores = ContinualScores(((0.9,), (0.7, 0.8)))
    >>> scores.average, round(scores.forgetting, 6), round(scores.backward, 6)
    (0.75, 0.2, -0.2)
    >>> round(scores.forward([0.9, 0.75]), 6)
    0.05
    """

    accuracy: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != i + 1 for i, row in enumerate(self.accuracy)):
            raise DataError("accuracy: row i has to hold the tasks 0 to i, learned so far")

    @property
    def average(self) -> float:
        """Mean accuracy over the tasks after the last one."""
        last = self.accuracy[-1]
        return sum(last) / len(last)

    @property
    def forgetting(self) -> float:
        """Mean over earlier tasks of their best accuracy before the last task minus that after it.

        Source: Chaudhry et al. 2018, arXiv:1801.10112, section 3.
        """
        earlier = len(self.accuracy) - 1
        best = [max(row[j] for row in self.accuracy[j:-1]) for j in range(earlier)]
        return sum(b - self.accuracy[-1][j] for j, b in enumerate(best)) / earlier if earlier else 0.0

    @property
    def backward(self) -> float:
        """Backward transfer: mean over earlier tasks of accuracy at the end minus that when just learned.

        Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 3.
        """
        earlier = len(self.accuracy) - 1
        return sum(self.accuracy[-1][j] - self.accuracy[j][j] for j in range(earlier)) / earlier if earlier else 0.0

    def forward(self, alone: Sequence[float]) -> float:
        """Forward transfer: mean over later tasks of accuracy when just learned minus that of learning it alone.

        Differs: Lopez-Paz and Ranzato (eq. 4) look at a task before it is learned, which a head of its own does not
        allow.
        """
        later = range(1, len(self.accuracy))
        if len(alone) != len(self.accuracy):
            raise DataError(f"alone: {len(alone)} accuracies for {len(self.accuracy)} tasks; give one each")
        return sum(self.accuracy[j][j] - alone[j] for j in later) / len(later) if len(self.accuracy) > 1 else 0.0
