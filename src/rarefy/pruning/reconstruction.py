"""Layer-wise reconstruction as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Score
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.reconstruction import Reconstruction


@method(
    "reconstruction",
    source="He et al. 2017, arXiv:1707.06168, eq. 2; mask by Wanda, arXiv:2306.11695, eq. 1",
    protocols=("score", "solver", "pattern", "allocation"),
)
def reconstruction(
    *,
    score: Score = InputNorm(),
    pattern: Pattern = Rowwise(),
    allocation: Allocation = Uniform(),
    damping: float = 0.01,
    iterations: int = 200,
) -> OneShot:
    """Keeps the best by a score, then refits the kept weights to the layer's output by least squares."""
    return OneShot(Reconstruction(score, damping, iterations), pattern, allocation, ranking=score)
