"""DSnoT as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import UnknownNameError
from rarefy.core.protocols import Allocation, Pattern, Solver
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.dsnot import DSnoT
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT

_STARTS: dict[str, Solver] = {
    "wanda": Scored(InputNorm()),
    "magnitude": Scored(Magnitude()),
    "sparsegpt": SparseGPT(),
}


@method(
    "dsnot",
    source="Zhang et al. 2023 (DSnoT), arXiv:2310.08915, algorithm 1",
    protocols=("solver", "score", "pattern", "allocation"),
)
def dsnot(
    *,
    start: str | Solver = "wanda",
    pattern: Pattern = Rowwise(),
    allocation: Allocation = Uniform(),
    cycles: int = 50,
    threshold: float = 0.1,
    power: float = 1.0,
) -> OneShot:
    """Improves a mask without gradients: exchanges weights until each output is right on average.

    start: "wanda", "magnitude", "sparsegpt", or a solver.
    """
    if isinstance(start, str) and start not in _STARTS:
        raise UnknownNameError(f"dsnot: start={start!r} is not one of {sorted(_STARTS)}; or give a solver")
    solver = _STARTS[start] if isinstance(start, str) else start
    return OneShot(DSnoT(solver, cycles, threshold, power), pattern, allocation, ranking=InputNorm())
