"""Spectrum-preserving sampling as a method."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.spectrum import SpectrumPreserving


@method(
    "spectrum-preserving-pruning",
    source="Yao et al. 2023, arXiv:2307.08982",
    protocols=("score", "solver", "pattern", "allocation"),
)
def spectrum_preserving_pruning(
    *, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), floor: float = 0.05
) -> OneShot:
    """Keeps large weights and a fair sample of small ones, scaled up, so that the leading spectrum stays; no data."""
    return OneShot(SpectrumPreserving(floor), pattern, allocation, ranking=Magnitude())
