"""CHITA as a method, in one round and in many."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.ladder import Ladder
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.chita import CHITA


@method(
    "chita",
    source="Benbaki et al. 2023 (CHITA), arXiv:2302.14623, problem 4 and algorithms 1-2",
    protocols=("solver", "pattern", "allocation"),
)
def chita(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Global(),
    damping: float = 0.1,
    first: float = 1.0,
    iterations: int = 50,
    exchanges: int = 20,
    swaps: int = 20,
    block: int | None = None,
) -> OneShot:
    """Sparse regression on the gradients of single samples, one budget over all layers; needs data and loss."""
    solver = CHITA(damping, first, iterations, exchanges, swaps, block=block)
    return OneShot(solver, pattern, allocation, ranking=Magnitude())


@method(
    "chita-plus-plus",
    source="Benbaki et al. 2023 (CHITA++), arXiv:2302.14623, section 3.4",
    protocols=("solver", "pattern", "allocation"),
)
def chita_plus_plus(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Global(),
    damping: float = 0.1,
    first: float = 1.0,
    rounds: int = 15,
    ladder: Ladder = "halving",
    iterations: int = 10,
    exchanges: int = 0,
    swaps: int = 0,
    block: int | None = None,
) -> OneShot:
    """CHITA down a ladder of sparsities, with new gradients on its own part of the data at each rung."""
    solver = CHITA(damping, first, iterations, exchanges, swaps, block=block)
    return OneShot(solver, pattern, allocation, ranking=Magnitude(), rounds=rounds, ladder=ladder, dealt=True)
