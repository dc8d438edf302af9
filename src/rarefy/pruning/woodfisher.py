"""WoodFisher as a method."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.fisher import Fisher
from rarefy.solvers.woodfisher import WoodFisher


@method(
    "woodfisher",
    source="Singh and Alistarh 2020 (WoodFisher), arXiv:2004.14340, sections 3.2 and 4",
    protocols=("solver", "pattern", "allocation"),
)
def woodfisher(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Global(),
    damping: float = 1e-3,
    block: int | None = 256,
) -> OneShot:
    """Surgeon's step with the inverse empirical Fisher in blocks, one budget over all layers; needs data and loss."""
    return OneShot(WoodFisher(damping, block), pattern, allocation, ranking=Fisher())
