"""Sparse WaveRNN: gradual pruning in blocks, for nets whose state is a few kilobytes in a cache."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.block import Block
from rarefy.training.clock import Clock
from rarefy.training.gradual import Gradual
from rarefy.training.method import SparseMethod
from rarefy.training.starts import DenseStart


@method(
    "sparse-wavernn",
    source="Kalchbrenner et al. 2018, arXiv:1802.08435, section 3",
    protocols=("schedule", "pattern", "score"),
)
def sparse_wavernn(
    *,
    pattern: Pattern = Block(16, 1),
    allocation: Allocation = Uniform(),
    every: int = 500,
    begin: float = 0.005,
    end: float = 0.9,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Gradual pruning of 16 x 1 blocks (or others) by their mean magnitude: Z(t) = Z (1 - (1 - (t - t0) / S)^3).

    every, begin, end: 500 steps, from step 1000 on and over 200 000 steps in the paper. `wavernn.WaveRNN` is its net.
    """
    topology = Gradual(Clock(every, begin, end), schedule)
    return SparseMethod(DenseStart(), topology, pattern=pattern, allocation=allocation)
