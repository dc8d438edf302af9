"""Wanda. THE FILE TO COPY when adding a one-shot method that is a score."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.scored import Scored


@method("wanda", source="Sun et al. 2023, arXiv:2306.11695, eq. 1", protocols=("score", "pattern", "allocation"))
def wanda(*, pattern: Pattern = Rowwise(), allocation: Allocation = Uniform()) -> OneShot:
    """Keeps the largest |weight| x input norm within each output row; no weight changes."""
    return OneShot(Scored(InputNorm()), pattern, allocation, ranking=InputNorm())
