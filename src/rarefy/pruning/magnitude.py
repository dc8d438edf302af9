"""Magnitude pruning."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.scored import Scored


@method("magnitude", source="Han et al. 2015, arXiv:1506.02626", protocols=("score", "pattern", "allocation"))
def magnitude(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform()) -> OneShot:
    """Keeps the largest weights of each layer; needs no data."""
    return OneShot(Scored(Magnitude()), pattern, allocation, ranking=Magnitude())
