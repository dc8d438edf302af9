"""Wanda with regional gradients."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.regional import RegionalGradient
from rarefy.solvers.scored import Scored


@method(
    "wanda-plus-plus",
    source="Yang et al. 2025 (Wanda++), arXiv:2503.04992, section 3",
    protocols=("score", "pattern", "allocation"),
)
def wanda_plus_plus(
    *, strength: float = 100.0, pattern: Pattern = Rowwise(), allocation: Allocation = Uniform()
) -> OneShot:
    """Wanda with the gradient of each block's own output in the score: one backward pass a block.

    The paper's regional optimisation is `repair="block"` of `prune`.
    Differs: the paper prunes and optimises a block in several turns; here each once.
    """
    return OneShot(Scored(RegionalGradient(strength)), pattern, allocation, ranking=RegionalGradient(strength))
