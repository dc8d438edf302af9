"""SPDF: sparse pre-training, dense fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import RandomStart, dense_mask
from rarefy.training.state import WeightState
from rarefy.training.turns import turn


@dataclass(frozen=True)
class Open:
    """At the share `at` of total_steps every mask is dropped: what was zero starts from zero, with a fresh memory."""

    at: float
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        _open(run, turn(run, run.step + 1 == max(1, round(self.at * run.end("spdf")))))

    def wants_gradient(self, run: Run) -> bool:
        return False


def open_all(run: Run) -> None:
    """Ends sparsity: all masks full; the net computes what it computed before."""
    _open(run, run.states)


def _open(run: Run, states: Sequence[WeightState]) -> None:
    for state in states:
        with run.opened(state):
            run.set_mask(state, dense_mask(state.shape))


@method("spdf", source="Thangarasa et al. 2023, arXiv:2303.10464, section 2", protocols=("pattern", "schedule"))
def spdf(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), switch: float = 0.8) -> SparseMethod:
    """Pre-trains with a fixed random mask, and from the share `switch` of total_steps on fine-tunes dense.

    The net ends dense: the gain is the cost of the pre-training, see `training_products`. Leave embeddings' heads dense
    with `ignore`. `spdf.open_all(trainer.run)` makes the switch by hand, where the data change.
    """
    if not 0.0 < switch < 1.0:
        raise SparsityError(f"spdf: switch {switch} leaves one phase without steps; give 0 < switch < 1")
    return SparseMethod(RandomStart(), Open(switch), pattern=pattern, allocation=allocation, exact=False)


def training_products(density: float, switch: float) -> float:
    """Multiplications with the masked layers over the whole training, as a share of the dense ones.

    >>> round(training_products(0.25, 0.8), 6)
    0.4
    """
    return switch * density + (1.0 - switch)
