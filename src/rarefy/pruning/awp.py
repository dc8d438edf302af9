"""AWP as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Score
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.awp import ProjectedGradient


@method(
    "awp-pgd",
    source="Liu et al. 2025 (AWP), arXiv:2506.10205, algorithm 1",
    protocols=("solver", "score", "pattern", "allocation"),
)
def awp_pgd(
    *,
    start: Score = InputNorm(),
    pattern: Pattern = Rowwise(),
    allocation: Allocation = Uniform(),
    iterations: int = 200,
) -> OneShot:
    """Projected gradient descent on the layer's output error, from Wanda's mask: products only, no inverse."""
    return OneShot(ProjectedGradient(start, iterations), pattern, allocation, ranking=start)
