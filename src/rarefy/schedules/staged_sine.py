"""Stage by stage upwards, each half a sine wave: no jump in the value, none in the slope."""

import math
from dataclasses import dataclass
from itertools import pairwise

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method


@method("staged-sine", role="schedule", source="Song et al. 2024 (ProSparse), arXiv:2402.13516, section 3.2")
@dataclass(frozen=True)
class StagedSine:
    """values[0] up to step ends[0], then from values[i-1] to values[i] between ends[i-1] and ends[i], then held.

    Within a stage: a + (b - a) / 2 * (sin(-pi/2 + pi * progress) + 1), so the slope is 0 at both ends.

    >>> StagedSine(ends=(10, 20), values=(1.0, 2.0))(15)
    1.5
    """

    ends: tuple[int, ...] = (10, 20, 30)
    values: tuple[float, ...] = (0.1, 0.3, 1.0)

    def __post_init__(self) -> None:
        if len(self.ends) != len(self.values) or not self.ends or self.ends[0] < 0:
            raise SparsityError(
                f"StagedSine: {len(self.ends)} ends for {len(self.values)} values; give one end a stage"
            )
        if any(b <= a for a, b in pairwise(self.ends)) or any(b < a for a, b in pairwise(self.values)):
            raise SparsityError(f"StagedSine: ends {self.ends} have to rise, values {self.values} not to fall")

    def __call__(self, step: int) -> float:
        if step <= self.ends[0]:
            return float(self.values[0])
        for (begin, end), (low, high) in zip(pairwise(self.ends), pairwise(self.values), strict=True):
            if step <= end:
                progress = (step - begin) / (end - begin)
                return low + (high - low) / 2 * (math.sin(-math.pi / 2 + math.pi * progress) + 1.0)
        return float(self.values[-1])
