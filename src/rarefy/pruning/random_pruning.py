"""Random masks at initialization, with densities that matter."""

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.random import Random
from rarefy.solvers.scored import Scored


@method(
    "random-pruning",
    source="Liu et al. 2022, arXiv:2202.02643, section 3",
    protocols=("pattern", "allocation", "score"),
)
def random_pruning(*, pattern: Pattern = Layerwise(), allocation: Allocation = ErdosRenyi()) -> OneShot:
    """A random mask in each layer, densities by Erdos-Renyi-Kernel; for training from there with the mask fixed.

    The paper's other densities: allocation="uniform", `ErdosRenyi(last_dense=True)` (ERK+), or those that a score
    gives, `Global(Snip())` or `Global(Grasp())`, whose masks are then shuffled within each layer.
    """
    return OneShot(Scored(Random()), pattern, allocation, ranking=Random())
