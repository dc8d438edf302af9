"""ALPS as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.alps import ALPS


@method(
    "alps",
    source="Meng et al. 2024 (ALPS), arXiv:2406.07831, algorithms 1 and 2",
    protocols=("solver", "pattern", "allocation"),
)
def alps(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    rho: float = 0.1,
    iterations: int = 300,
    damping: float = 0.01,
) -> OneShot:
    """ADMM on the layer's output error until the support rests, then conjugate gradients on what is kept."""
    return OneShot(ALPS(rho, iterations, damping=damping), pattern, allocation, ranking=InputNorm())
