"""SparseGPT as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern, Solver
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.admm import ADMM
from rarefy.solvers.corrected import Corrected
from rarefy.solvers.sparsegpt import SparseGPT


@method(
    "sparsegpt", source="Frantar and Alistarh 2023, arXiv:2301.00774", protocols=("solver", "pattern", "allocation")
)
def sparsegpt(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    columns: int = 128,
    damping: float = 0.01,
    corrected: bool = False,
    refine: int = 0,
) -> OneShot:
    """Second-order one-shot pruning: drops by OBS saliency and lets the kept weights make up for it.

    corrected: aim at the dense model's outputs instead of the layer's own (see `solvers.corrected`): slower
    calibration, the better the later the layer. refine: so many ADMM iterations then exchange weights of the mask
    (see `solvers.admm`).
    The `global` allocation ranks by |w| * ||x||, the diagonal of this solver's own criterion.
    """
    solver: Solver = SparseGPT(columns, damping)
    if refine and not corrected:
        raise SparsityError(f"sparsegpt: refine={refine} works on corrected targets; give corrected=True too")
    if corrected:
        solver = Corrected(solver, refine=ADMM(iterations=refine) if refine else None)
    return OneShot(solver, pattern, allocation, ranking=InputNorm())
