"""SET: sparse evolutionary training."""

from dataclasses import dataclass

from torch import Tensor

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.core.shapes import Mask
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.unstructured import Layerwise
from rarefy.schedules.constant import Constant
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropGrow, DropSmallest, spread
from rarefy.training.growth import GrowRandom
from rarefy.training.method import SparseMethod
from rarefy.training.options import require_share
from rarefy.training.run import Run
from rarefy.training.starts import RandomStart
from rarefy.training.state import WeightState


@dataclass(frozen=True)
class DropNearZero:
    """The fraction of the positive weights that is smallest goes, and the same fraction of the negative ones.

    Source: Mocanu et al. 2018 (SET), arXiv:1707.04780, algorithm 1. Patterns that compete by rows or blocks drop by
    magnitude within each of their parts instead.
    """

    def __call__(self, run: Run, state: WeightState, fraction: float) -> Mask:
        stay = self.of_kept(state, state.value()[state.mask], fraction)
        return DropSmallest()(run, state, fraction) if stay is None else spread(state.mask, stay)

    def of_kept(self, state: WeightState, values: Tensor, fraction: float) -> Tensor | None:
        if not isinstance(state.pattern, Layerwise):
            return DropSmallest().of_kept(state, values, fraction)
        weight, positive = values.float(), values >= 0
        drop = exact_count(len(values), fraction)
        from_positive = min(drop, exact_count(int(positive.count_nonzero()), fraction))
        from_negative = min(int((~positive).count_nonzero()), drop - from_positive)
        return ~(_smallest(weight, positive, from_positive) | _smallest(weight, ~positive, from_negative))


def _smallest(weight: Tensor, among: Tensor, count: int) -> Tensor:
    """Which `count` of those are nearest to zero."""
    return keep_top((-weight.abs()).masked_fill(~among, float("-inf"))[None], count)[0]


@method("set", source="Mocanu et al. 2018, arXiv:1707.04780, algorithm 1", protocols=("transform", "pattern"))
def sparse_evolutionary_training(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = ErdosRenyi(kernel=False),
    fraction: float = 0.3,
    every: int = 100,
    end: float = 1.0,
    spread: float = 1.0,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """After every `every` steps (an epoch in the paper) the weights nearest to zero go, and as many come at random.

    fraction: zeta, of the positive and of the negative weights alike; schedule: zeta over the steps instead. spread:
    standard deviation of new weights in units of that before training (0: they begin at zero). end: the share of
    total_steps after which nothing is exchanged; with 1, total_steps need not be given.
    """
    require_share("fraction", fraction)
    topology = DropGrow(
        GrowRandom(spread),
        DropNearZero(),
        Clock(every, 0.0, end),
        fraction=schedule or Constant(fraction),
        return_dropped=False,
    )
    return SparseMethod(RandomStart(), topology, pattern=pattern, allocation=allocation)
