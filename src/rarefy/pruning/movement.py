"""Movement pruning in one shot."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.movement import Movement
from rarefy.solvers.scored import Scored


@method("movement", source="Sanh et al. 2020, arXiv:2005.07683, eq. 4", protocols=("score", "pattern", "allocation"))
def movement(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), rounds: int = 1) -> OneShot:
    """Keeps the weights that a first step of gradient descent would move away from zero.

    Differs: the paper accumulates the score while it fine-tunes; see the score for what one shot means.
    """
    return OneShot(Scored(Movement()), pattern, allocation, ranking=Movement(), rounds=rounds)
