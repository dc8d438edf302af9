"""Sparse momentum: layers with large momentum get more weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.schedules.cosine import Cosine
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropSmallest
from rarefy.training.free_pattern import FreePattern
from rarefy.training.growth import GrowMoment
from rarefy.training.masked import Masked
from rarefy.training.method import SparseMethod
from rarefy.training.options import require_schedule, require_share
from rarefy.training.run import Run
from rarefy.training.starts import RandomStart


@dataclass(frozen=True)
class MoveByMomentum:
    """Each layer drops a fraction of its smallest weights; what all of them dropped is grown where momentum is.

    A layer's share of the growth is its mean |momentum| over the kept weights; what does not fit goes to the others.
    Source: Dettmers and Zettlemoyer 2019, arXiv:1907.04840, section 3 and algorithm 1.
    """

    clock: Clock = field(default_factory=Clock)
    initial: float = 0.5
    fraction: Schedule | None = None
    needs_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_share("fraction", self.initial)
        require_schedule("schedule", self.fraction)

    @property
    def exchanges(self) -> Clock:
        return self.clock

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        if not self.clock.due(run, "sparse momentum", run.step + 1):
            return
        last = max(1, round(self.clock.end * run.end("sparse momentum")))
        fraction = (self.fraction or Cosine(self.initial, 0.0, last))(run.step + 1)
        moments = [GrowMoment()(run, state).float() for state in run.moving]
        shares = [float(m[s.mask].mean()) for m, s in zip(moments, run.moving, strict=True)]
        survivors = [DropSmallest()(run, state, fraction) for state in run.moving]
        room = [int((~kept).count_nonzero()) for kept in survivors]
        total = sum(s.kept - int(kept.count_nonzero()) for s, kept in zip(run.moving, survivors, strict=True))
        for state, kept, moment, more in zip(run.moving, survivors, moments, deal(total, shares, room), strict=True):
            state.density = (int(kept.count_nonzero()) + more) / kept.numel()
            rank = torch.where(kept, torch.full_like(moment, 1e30), moment)
            run.set_mask(state, state.pattern.select(rank, state.density))


def deal(total: int, shares: Sequence[float], room: Sequence[int]) -> list[int]:
    """`total` dealt out in proportion to the shares, whole numbers, none above its room.

    What does not fit is dealt again among those that have room; remainders go to the largest fractions.

    >>> deal(10, [1.0, 1.0, 2.0], [10, 1, 10])
    [3, 1, 6]
    """
    got = [0] * len(shares)
    left = min(total, sum(room))
    while left:
        free = [i for i in range(len(room)) if got[i] < room[i]]
        mass = sum(shares[i] for i in free)
        wish = {i: left * (shares[i] / mass if mass > 0 else 1 / len(free)) for i in free}
        whole = {i: min(room[i] - got[i], int(wish[i])) for i in free}
        if not any(whole.values()):
            whole = {max(free, key=lambda i: wish[i]): 1}
        if sum(int(wish[i]) for i in free) == sum(whole.values()) < left:
            for i in sorted(free, key=lambda i: int(wish[i]) - wish[i]):
                if sum(whole.values()) < left and got[i] + whole.get(i, 0) < room[i]:
                    whole[i] = whole.get(i, 0) + 1
        for i, n in whole.items():
            got[i] += n
        left -= sum(whole.values())
    return got


@method(
    "sparse-momentum",
    source="Dettmers and Zettlemoyer 2019, arXiv:1907.04840, algorithm 1",
    protocols=("transform", "allocation"),
)
def sparse_momentum(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    fraction: float = 0.5,
    every: int = 100,
    end: float = 1.0,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Momentum, kept for zero weights too, says how many weights each layer gets and where they grow.

    fraction: of each layer's weights dropped at first, on half a cosine to 0 at the share `end` of total_steps. Needs
    SGD with momentum or an Adam (whose m / sqrt(v) is used).
    """
    topology = MoveByMomentum(Clock(every, 0.0, end), fraction, schedule)
    return SparseMethod(
        RandomStart(),
        topology,
        Masked(True),
        pattern=pattern,
        allocation=allocation,
        prepare=FreePattern("sparse-momentum"),
    )
