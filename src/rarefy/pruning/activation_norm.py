"""Pruning by the size of inputs alone."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.activation_norm import ActivationNorm
from rarefy.solvers.scored import Scored


@method(
    "activation-norm",
    source="Molchanov et al. 2017, arXiv:1611.06440, section 2.2",
    protocols=("score", "pattern", "allocation"),
)
def activation_norm(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform()) -> OneShot:
    """Keeps the weights of the largest inputs, whatever the weights: a baseline for Wanda."""
    return OneShot(Scored(ActivationNorm()), pattern, allocation, ranking=ActivationNorm())
