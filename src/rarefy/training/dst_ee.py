"""DST-EE: growth that also looks where nobody has looked."""

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropGrow
from rarefy.training.growth import GrowExplore
from rarefy.training.method import SparseMethod
from rarefy.training.starts import RandomStart


@method("dst-ee", source="Huang et al. 2023, arXiv:2211.16667, algorithm 1", protocols=("transform", "score"))
def dst_ee(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = ErdosRenyi(),
    c: float = 1e-3,
    eps: float = 1.0,
    fraction: float = 0.3,
    every: int = 100,
    end: float = 0.75,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """RigL whose growth adds a bonus for weights that were seldom kept: |g| + c * ln(t) / (N + eps).

    c: weight of exploration (0 is RigL exactly); eps: in the bonus's denominator; the others as for `rigl`.
    """
    grow = GrowExplore(c, eps)
    topology = DropGrow(grow, clock=Clock(every, 0.0, end), initial=fraction, fraction=schedule, instead=True)
    return SparseMethod(RandomStart(), topology, pattern=pattern, allocation=allocation)
