"""Pruning by the size of gradients."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.gradient import Gradient
from rarefy.solvers.scored import Scored


@method(
    "gradient",
    source="Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (4)",
    protocols=("score", "pattern", "allocation"),
)
def gradient(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), rounds: int = 1) -> OneShot:
    """Keeps the weights in which the loss is steepest, whatever their size: a baseline."""
    return OneShot(Scored(Gradient()), pattern, allocation, ranking=Gradient(), rounds=rounds)
