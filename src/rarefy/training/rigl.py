"""RigL: drop by magnitude, grow by gradient."""

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropGrow
from rarefy.training.growth import GrowGradient
from rarefy.training.method import SparseMethod
from rarefy.training.starts import RandomStart


@method(
    "rigl", source="Evci et al. 2020, arXiv:1911.11134, algorithm 1", protocols=("transform", "schedule", "pattern")
)
def rigl(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = ErdosRenyi(),
    fraction: float = 0.3,
    every: int = 100,
    end: float = 0.75,
    schedule: Schedule | None = None,
    instead: bool = True,
) -> SparseMethod:
    """Every `every` steps the smallest kept weights go and the entries with the largest gradient come, at zero.

    fraction: of the kept weights at the start, on half a cosine to 0 at the share `end` of total_steps; schedule: the
    fraction over the steps instead. instead: whether a change of the masks replaces the optimizer's step, as in the
    paper's algorithm.
    """
    topology = DropGrow(
        GrowGradient(), clock=Clock(every, 0.0, end), initial=fraction, fraction=schedule, instead=instead
    )
    return SparseMethod(RandomStart(), topology, pattern=pattern, allocation=allocation)
