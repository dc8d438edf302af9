"""STE and SR-STE: sparse forward passes of a dense weight."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.nm import NM
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.starts import MagnitudeStart
from rarefy.training.straight_through import StraightThrough


@method(
    "ste",
    source="Bengio et al. 2013, arXiv:1308.3432; Zhou et al. 2021, arXiv:2102.04010, eq. 5",
    protocols=("transform",),
)
def ste(*, pattern: Pattern = NM(2, 4), allocation: Allocation = Uniform(), every: int = 1) -> SparseMethod:
    """The forward pass keeps the largest weights, chosen anew every `every` steps; the gradient updates all of them."""
    return SparseMethod(MagnitudeStart(), Refresh(every), StraightThrough(), pattern=pattern, allocation=allocation)


@method("sr-ste", source="Zhou et al. 2021, arXiv:2102.04010, eq. 9", protocols=("transform",))
def sr_ste(
    *, pattern: Pattern = NM(2, 4), allocation: Allocation = Uniform(), every: int = 1, decay: float = 2e-4
) -> SparseMethod:
    """STE whose dropped weights also decay, which keeps the mask from flipping to and fro."""
    transform = StraightThrough(decay)
    return SparseMethod(MagnitudeStart(), Refresh(every), transform, pattern=pattern, allocation=allocation)
