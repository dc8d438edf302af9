"""Gradual magnitude pruning."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.gradual import Gradual
from rarefy.training.method import SparseMethod
from rarefy.training.starts import DenseStart


@method("gmp-zhu-gupta", source="Zhu and Gupta 2017, arXiv:1710.01878, eq. 1", protocols=("schedule", "score"))
def gmp(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    every: int = 100,
    begin: float = 0.2,
    end: float = 0.75,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Starts dense and prunes the smallest weights of every matrix along a cubic curve; pruned weights stay out.

    begin, end: shares of total_steps between which the sparsity rises; schedule: from 1 (dense) to 0 (final) instead of
    the cubic. Block patterns are thinned block by block; an N:M pattern, which has one density, comes at the end.
    """
    topology = Gradual(Clock(every, begin, end), schedule)
    return SparseMethod(DenseStart(), topology, pattern=pattern, allocation=allocation)
