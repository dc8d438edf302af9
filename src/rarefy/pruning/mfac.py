"""M-FAC as a method."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.fisher import Fisher
from rarefy.solvers.mfac import MFAC


@method(
    "mfac",
    source="Frantar et al. 2021 (M-FAC), arXiv:2107.03356, sections 3.1 and 4.1",
    protocols=("solver", "pattern", "allocation"),
)
def mfac(
    *, pattern: Pattern = Layerwise(), allocation: Allocation = Global(), damping: float = 1e-5, average: int = 1
) -> OneShot:
    """Surgeon's step with the whole inverse empirical Fisher, matrix-free, one budget over all layers."""
    return OneShot(MFAC(damping, average), pattern, allocation, ranking=Fisher())
