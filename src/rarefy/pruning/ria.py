"""Relative importance and activations."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.ria import RelativeImportance
from rarefy.solvers.scored import Scored


@method("ria", source="Zhang et al. 2024 (RIA), ICLR 2024, eqs. 2-3", protocols=("score", "pattern", "allocation"))
def ria(*, power: float = 0.5, pattern: Pattern = Rowwise(), allocation: Allocation = Uniform()) -> OneShot:
    """Keeps the largest by relative importance times the root of the input norm; no weight changes."""
    return OneShot(Scored(RelativeImportance(power)), pattern, allocation, ranking=RelativeImportance(power))
