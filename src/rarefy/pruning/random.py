"""Random pruning."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.random import Random
from rarefy.solvers.scored import Scored


@method("random", source="Gale et al. 2019, arXiv:1902.09574", protocols=("score", "pattern", "allocation"))
def random(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform()) -> OneShot:
    """Keeps a random subset of each layer: the floor under every method."""
    return OneShot(Scored(Random()), pattern, allocation, ranking=Random())
