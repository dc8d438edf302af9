"""The exact surgeon as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.obs import OBS


@method(
    "obs",
    source="Hassibi and Stork 1992; Frantar and Alistarh 2022 (OBC), arXiv:2208.11580, algorithms 1 and 2",
    protocols=("solver", "pattern", "allocation"),
)
def obs(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), damping: float = 0.01) -> OneShot:
    """Exact greedy removal of one weight at a time on each row of a layer, the others refitted after each.

    The `global` allocation ranks by |w| * ||x||, the diagonal of this solver's own criterion.
    """
    return OneShot(OBS(damping), pattern, allocation, ranking=InputNorm())
