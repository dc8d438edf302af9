"""No change over time."""

from dataclasses import dataclass

from rarefy.core.registry import method


@method("constant", role="schedule", source="Mocanu et al. 2018 (SET), arXiv:1707.04780 (constant drop fraction)")
@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    >>> Constant(0.3)(1000)
    0.3
    """

    value: float

    def __call__(self, step: int) -> float:
        return self.value
