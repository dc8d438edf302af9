"""Pruning by the diagonal of the Fisher information."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.fisher import Fisher
from rarefy.solvers.scored import Scored


@method("fisher", source="Theis et al. 2018, arXiv:1801.05787, eq. 6", protocols=("score", "pattern", "allocation"))
def fisher(*, pattern: Pattern = Layerwise(), allocation: Allocation = Global()) -> OneShot:
    """Keeps what the loss rises most by without, by the diagonal Fisher; ranked over the whole model."""
    return OneShot(Scored(Fisher()), pattern, allocation, ranking=Fisher())
