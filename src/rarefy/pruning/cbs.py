"""The Combinatorial Brain Surgeon as a method."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.cbs import CBS


@method(
    "cbs",
    source="Yu et al. 2022 (CBS), arXiv:2203.04466, sections 4 and 5",
    protocols=("solver", "pattern", "allocation"),
)
def cbs(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Global(),
    damping: float = 1e-2,
    draws: int = 10,
    noise: float = 0.1,
    rounds: int = 50,
    rungs: int = 4,
) -> OneShot:
    """Chooses weights for what their removal does together, then repairs for all; one budget over all layers."""
    solver = CBS(damping, draws, noise, rounds, rungs=rungs)
    return OneShot(solver, pattern, allocation, ranking=Magnitude())
