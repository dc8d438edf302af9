"""Pruning that preserves the flow of gradients."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.grasp import Grasp
from rarefy.solvers.scored import Scored


@method(
    "grasp",
    source="Wang et al. 2020 (GraSP), arXiv:2002.07376, eq. 8 and algorithm 1",
    protocols=("score", "pattern", "allocation"),
)
def grasp(*, pattern: Pattern = Layerwise(), allocation: Allocation = Global()) -> OneShot:
    """Keeps what the gradient flow after pruning needs, by w * (H g), ranked over the whole model."""
    return OneShot(Scored(Grasp()), pattern, allocation, ranking=Grasp())
