"""First masks."""

from dataclasses import dataclass

import torch

from rarefy.core.errors import SparsityError
from rarefy.scores.magnitude import Magnitude
from rarefy.training.cut import cut
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run


@dataclass(frozen=True)
class DenseStart:
    """Everything is kept: training begins dense."""

    def __call__(self, run: Run) -> None:
        """The masks are full when a run begins."""


@dataclass(frozen=True)
class RandomStart:
    """A random mask in each weight, at the allocation's density. All are chosen before a weight is touched."""

    def __call__(self, run: Run) -> None:
        chosen = [state.pattern.select(run.rand(state), state.density) for state in run.states]
        for state, mask in zip(run.states, chosen, strict=True):
            run.set_mask(state, mask)


@dataclass(frozen=True)
class MagnitudeStart:
    """The largest weights of each matrix, at the allocation's density."""

    def __call__(self, run: Run) -> None:
        cut(run, Magnitude())


@dataclass(frozen=True)
class GivenStart:
    """What is not zero now, whatever pruned it; each weight's density is the one it has. All ranks take rank 0's."""

    def __call__(self, run: Run) -> None:
        for state in run.states:
            state.put(run.agreed(state.value()))
            run.set_mask(state, state.value() != 0)
            state.density = state.asked = state.kept / max(1, state.mask.numel())


_GENTLE = (DenseStart, RandomStart)


def may_spoil(method: SparseMethod) -> bool:
    """Whether a start that fails may have changed weights by then."""
    return type(method.start) not in _GENTLE or method.prepare is not None


def require_kept(run: Run) -> None:
    """Refuses a run in which a weight has nothing left, or is meant to end so."""
    for state in run.states:
        if state.count == 0 or not bool(state.mask.any()):
            raise SparsityError(
                f"{state.name}: density {state.density:g} leaves none of its {state.mask.numel()} weights; ask for "
                f"less sparsity, choose another allocation, or leave the layer dense with ignore=[{state.name!r}]"
            )


def dense_mask(shape: tuple[int, int]) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)
