"""The masks of the start, for good."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.training.run import Run


@dataclass(frozen=True)
class Fixed:
    """No mask ever changes."""

    needs_end: ClassVar[bool] = False

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        """Nothing changes."""

    def wants_gradient(self, run: Run) -> bool:
        return False
