"""When masks change."""

from dataclasses import dataclass

from rarefy.core.errors import SparsityError
from rarefy.training.options import require_share, require_steps
from rarefy.training.run import Run


@dataclass(frozen=True)
class Clock:
    """Every `every` steps after `begin` and before `end`, both shares of `total_steps` (step 0 never).

    With begin = 0 and end = 1 and no `total_steps` the clock runs for ever.
    """

    every: int = 100
    begin: float = 0.0
    end: float = 0.75

    def __post_init__(self) -> None:
        require_steps("every", self.every)
        require_share("begin", self.begin)
        require_share("end", self.end)
        if not 0.0 <= self.begin < self.end <= 1.0:
            raise SparsityError(f"begin={self.begin}, end={self.end}: shares of the steps, 0 <= begin < end <= 1")

    @property
    def needs_end(self) -> bool:
        return (self.begin, self.end) != (0.0, 1.0)

    def window(self, run: Run, where: str) -> tuple[int, int]:
        """First and last step, in steps."""
        total = run.end(where)
        return round(self.begin * total), round(self.end * total)

    def due(self, run: Run, where: str, done: int) -> bool:
        """Whether masks change when `done` steps are done."""
        if done == 0 or done % self.every:
            return False
        if not self.needs_end and run.total_steps is None:
            return True
        first, last = self.window(run, where)
        return first <= done < last

    def ticks(self, total: int) -> bool:
        """Whether masks ever change in so many steps."""
        first, last = round(self.begin * total), round(self.end * total)
        return max(1, -(-first // self.every)) * self.every < last
