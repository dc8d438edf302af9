"""Using a net whose weights are distributions: averages over draws, and the means alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rarefy.core.errors import ModelError, SparsityError
from rarefy.training.gaussian import sd_of
from rarefy.training.report import TrainingReport
from rarefy.training.state import WeightState
from rarefy.training.trainer import SparseTrainer


def _states(trainer: SparseTrainer) -> list[WeightState]:
    if any("rho" not in state.extra or state.master is None for state in trainer.run.states):
        raise ModelError(f"posterior: the weights of {trainer.name!r} are no distributions; train with ssvi")
    return trainer.run.states


@contextmanager
def at_means(trainer: SparseTrainer) -> Iterator[None]:
    """The parameters are the means while it lasts, then again the draw that the next step belongs to."""
    for state in _states(trainer):
        state.put(state.value() * state.mask)
    try:
        yield
    finally:
        trainer.show()


@torch.no_grad()
def average(trainer: SparseTrainer, call: Callable[[], Tensor], *, samples: int = 8, seed: int = 0) -> Tensor:
    """The mean of `call()` over draws of the weights; e.g. `lambda: model(x).softmax(-1)`.

    The training's own noise and generator stay as they are.
    """
    if samples < 1:
        raise SparsityError(f"average: samples {samples}; give at least 1")
    states, generator, total = _states(trainer), torch.Generator().manual_seed(seed), torch.zeros(())
    try:
        for _ in range(samples):
            for state in states:
                noise = torch.randn(state.weight.shape, generator=generator)
                state.put((state.value() + sd_of(state) * noise) * state.mask)
            total = total + call()
    finally:
        trainer.show()
    return total / samples


def finish(trainer: SparseTrainer) -> TrainingReport:
    """Ends the training with the means in the parameters: an ordinary sparse net from now on."""
    for state in _states(trainer):
        state.put(state.value() * state.mask)
    return trainer.detach()
