"""SparseGPT as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
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
) -> OneShot:
    """Second-order one-shot pruning: drops by OBS saliency and lets the kept weights make up for it.

    The `global` allocation ranks by |w| * ||x||, the diagonal of this solver's own criterion.
    """
    return OneShot(SparseGPT(columns, damping), pattern, allocation, ranking=InputNorm())
