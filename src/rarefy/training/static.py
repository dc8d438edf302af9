"""Static sparse training: one mask from the beginning to the end."""

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.errors import unknown_name
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.fixed import Fixed
from rarefy.training.method import SparseMethod, Start
from rarefy.training.starts import GivenStart, MagnitudeStart, RandomStart

_STARTS: dict[str, Start] = {"random": RandomStart(), "magnitude": MagnitudeStart(), "given": GivenStart()}


@method(
    "static", source="Mocanu et al. 2016, arXiv:1604.06016; Liu et al. 2022, arXiv:2202.02643", protocols=("transform",)
)
def static(
    *, pattern: Pattern = Layerwise(), allocation: Allocation = ErdosRenyi(), start: str = "random"
) -> SparseMethod:
    """Trains with a mask that never changes: random, of the largest weights, or the zeros that are there.

    start: "random" | "magnitude" | "given".
    """
    if start not in _STARTS:
        raise unknown_name("start", start, _STARTS)
    return SparseMethod(_STARTS[start], Fixed(), pattern=pattern, allocation=allocation)
