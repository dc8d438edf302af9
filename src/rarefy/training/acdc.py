"""AC/DC: phases with a sparse net and phases with a dense one, taking turns."""

from dataclasses import dataclass, field
from typing import ClassVar

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern, Score
from rarefy.core.registry import method
from rarefy.core.topk import exact_count
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.training.clock import Clock
from rarefy.training.cut import cut
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart, dense_mask
from rarefy.training.turns import turn


@dataclass(frozen=True)
class Alternate:
    """Dense until the clock begins; then sparse and dense phases of `every` steps each; sparse from the clock's end on.

    A sparse phase begins with the largest entries of the weights as they are then, and keeps them; in a dense phase
    what was dropped starts again from zero.
    """

    clock: Clock = field(default_factory=lambda: Clock(100, 0.1, 0.85))
    score: Score = field(default_factory=Magnitude)
    needs_end: ClassVar[bool] = True

    def sparse(self, run: Run, done: int) -> bool:
        """Whether the net is sparse when `done` steps are done."""
        first, last = self.clock.window(run, "acdc")
        if done < first:
            return False
        return done >= last or (done - first) // self.clock.every % 2 == 0

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        now, then = self.sparse(run, run.step), self.sparse(run, run.step + 1)
        changing = turn(run, now != then or run.step == 0)
        if then:
            cut(run, self.score, changing)
            return
        for state in changing:
            if state.kept < state.size:
                with run.opened(state):
                    run.set_mask(state, dense_mask(state.shape))

    def wants_gradient(self, run: Run) -> bool:
        return False


@method("acdc", source="Peste et al. 2021, arXiv:2106.12379, algorithm 1", protocols=("schedule", "score"))
def acdc(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    every: int = 100,
    begin: float = 0.1,
    end: float = 0.85,
) -> SparseMethod:
    """Trains a sparse and a dense net by turns: sparse phases keep the largest weights, dense ones free them again.

    every: steps of a phase (5 epochs in the paper); begin, end: shares of total_steps before which the net is dense and
    after which it stays sparse (10 of 100 epochs and the last 15 in the paper).
    Differs: the optimizer forgets the weights that were dropped when they come back, not all of them.
    """
    return SparseMethod(DenseStart(), Alternate(Clock(every, begin, end)), pattern=pattern, allocation=allocation)


@method("acdc-plus-plus", source="Kuznedelev et al. 2023, arXiv:2308.02060, section 4", protocols=("schedule", "score"))
def acdc_plus_plus(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    phases: int = 8,
    begin: float = 0.1,
    end: float = 0.85,
) -> SparseMethod:
    """AC/DC with phases that grow with the training, which `extended_steps` makes longer the sparser the net.

    phases: sparse and dense phases between the shares `begin` and `end` of total_steps. `under_training` measures
    whether the training was long enough. Differs: the paper's image augmentation and its frozen embeddings belong to
    the loop, not to the trainer.
    """
    if phases < 2:
        raise SparsityError(f"acdc-plus-plus: {phases} phases do not take turns; give at least 2")
    topology = AlternateIn(phases, begin, end)
    return SparseMethod(DenseStart(), topology, pattern=pattern, allocation=allocation)


@dataclass(frozen=True)
class AlternateIn:
    """`Alternate` with a number of phases instead of their length."""

    phases: int
    begin: float
    end: float
    needs_end: ClassVar[bool] = True

    def of(self, run: Run) -> Alternate:
        """The phases in steps."""
        first, last = Clock(1, self.begin, self.end).window(run, "acdc-plus-plus")
        return Alternate(Clock(max(1, -(-(last - first) // self.phases)), self.begin, self.end))

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        self.of(run).after(run)

    def wants_gradient(self, run: Run) -> bool:
        return False


def extended_steps(dense_steps: int, density: float, longest: float = 10.0) -> int:
    """Steps of a sparse training for which `dense_steps` are enough when it is dense.

    dense_steps * min(longest, max(1, 0.2 / density)): down to a density of 0.2 the same, below it as many more as
    there are fewer weights, so that the products with kept weights stay as many as at 0.2.
    Differs: the paper tries 1 to 10 times the dense length and finds more gained the sparser the net; it has no
    formula.

    >>> extended_steps(1000, 0.05)
    4000
    """
    if not 0.0 < density <= 1.0:
        raise SparsityError(f"extended_steps: density {density} is outside (0, 1]; density = 1 - sparsity")
    return exact_count(round(dense_steps * longest), min(longest, max(1.0, 0.2 / density)) / longest)
