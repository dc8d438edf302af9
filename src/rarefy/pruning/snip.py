"""Pruning by connection sensitivity."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.snip import Snip
from rarefy.solvers.scored import Scored


@method(
    "snip",
    source="Lee et al. 2019 (SNIP), arXiv:1810.02340, eqs. 4-6; rounds: de Jorge 2021, arXiv:2006.09081",
    protocols=("score", "pattern", "allocation"),
)
def snip(*, pattern: Pattern = Layerwise(), allocation: Allocation = Global(), rounds: int = 1) -> OneShot:
    """Keeps the weights whose removal would change the loss most, |w dL/dw|, ranked over the whole model.

    rounds: more than one is the iterative variant: the density falls geometrically, gradients anew.
    """
    return OneShot(Scored(Snip()), pattern, allocation, ranking=Snip(), rounds=rounds)
