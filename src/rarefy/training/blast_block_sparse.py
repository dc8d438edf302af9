"""BLaST: block-sparse weights by pruning and growing whole blocks along a rising sparsity."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.block import Block
from rarefy.patterns.fixed import fixed_density
from rarefy.training.clock import Clock
from rarefy.training.gradual import how_far, reached
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart
from rarefy.training.state import WeightState
from rarefy.training.turns import some_late, turn


@dataclass(frozen=True)
class PruneAndGrow:
    """At every tick blocks are chosen anew: most by the norm of their weights, a share `fresh` by that of the gradient.

    The count is the schedule's. Blocks that come in by their gradient while they were cut begin at zero.
    """

    clock: Clock = field(default_factory=Clock)
    schedule: Schedule | None = None
    fresh: float = 0.1
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        due = how_far(self.clock, self.schedule, run) is not None
        for state in turn(run, due):
            with run.opened(state):
                self._choose(run, state, reached(self.clock, self.schedule, run))
        return False

    def why_not(self, pattern: Pattern) -> str | None:
        if fixed_density(pattern) is None:
            return None
        return f"the density falls from 1 step by step, {pattern} has but one; give blocks, as in pattern='block:16x16'"

    def wants_gradient(self, run: Run) -> bool:
        return some_late(run) or how_far(self.clock, self.schedule, run) is not None

    def after(self, run: Run) -> None:
        """Gradients are there before the step only."""

    def _choose(self, run: Run, state: WeightState, left: float) -> None:
        density = state.density + (1.0 - state.density) * left
        grad = state.grad()
        fresh = 0.0 if grad is None or left == 0.0 else self.fresh  # the last choice is what is trained from then on
        by_weight = state.pattern.select(state.value().float().square(), density * (1.0 - fresh))
        if grad is None or fresh == 0.0:
            run.set_mask(state, by_weight)
            return
        rank = torch.where(by_weight, torch.full_like(grad, 1e30, dtype=torch.float32), grad.float().square())
        run.set_mask(state, state.pattern.select(rank, density))


@method(
    "blast-block-sparse",
    source="Okanovic et al. 2025 (BLaST), arXiv:2507.03117, section 3",
    protocols=("pattern", "transform", "schedule"),
)
def blast_block_sparse(
    *,
    pattern: Pattern = Block(16, 16),
    allocation: Allocation = Uniform(),
    every: int = 100,
    begin: float = 0.0,
    end: float = 0.75,
    fresh: float = 0.1,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Block-sparse training: a cubic sparsity, blocks kept by their weight norm, some let in by their gradient norm.

    pattern: blocks of 16 to 128 a side in the paper, in the MLPs of transformers (leave the rest out with `ignore`).
    fresh: the share of kept blocks that are chosen by their gradient at each tick but the last.
    Differs: the paper lets in all blocks that lead by gradient, so its count exceeds the schedule's; here it is exact.
    """
    if not 0.0 <= fresh < 1.0:
        raise SparsityError(f"blast-block-sparse: fresh {fresh} is no share of the blocks; give 0 <= fresh < 1")
    topology = PruneAndGrow(Clock(every, begin, end), schedule, fresh)
    return SparseMethod(DenseStart(), topology, pattern=pattern, allocation=allocation)
