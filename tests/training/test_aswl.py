"""Ratios are learned, weights come and go until the end, and the count is met exactly."""

import pytest
import torch

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.aswl import aswl, budget, slope
from rarefy.training.method import SparseMethod
from rarefy.training.sr_ste import ste
from training.loops import adam, mlp, sgd, start, train


def learns_its_ratios(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, adam(task.model), method, sparsity=0.8, total_steps=80)
    returned, gone, last = 0, ~trainer.run.states[1].mask, None
    for step, _ in enumerate(train(task, trainer, 80)):
        mask = trainer.run.states[1].mask
        returned += int((gone & mask).sum())
        gone = ~mask
        if step == 60:
            last = [s.mask.clone() for s in trainer.run.states]
    assert returned > 0
    assert all(torch.equal(a, s.mask) for a, s in zip(last, trainer.run.states, strict=True))
    size = sum(s.mask.numel() for s in trainer.run.states)
    assert abs(trainer.sparsity - 0.8) <= 0.5 / size + 1e-9
    shares = [s.kept / s.mask.numel() for s in trainer.run.states]
    assert max(shares) > 1.1 * min(shares)


def test_ratios_differ_masks_move_then_stay_and_the_count_is_exact() -> None:
    assert_beats_impostor(learns_its_ratios, aswl(rate=0.2), ste(pattern=Layerwise()))


def test_the_slope_is_that_of_the_loss() -> None:
    """Finite difference: the loss with a few more weights, those that come next."""
    task = mlp()
    trainer, _ = start(task, "aswl", sgd, sparsity=0.5, total_steps=1000)
    list(train(task, trainer, 20))
    state = trainer.run.states[1]
    density = state.kept / state.mask.numel()
    task.loss(0).backward()
    predicted = slope(state, density, 0.02)

    def loss_at(d: float) -> float:
        state.put(state.value() * Layerwise().select(state.value().abs(), d))
        return float(task.loss(0).detach())

    measured = (loss_at(density + 0.02) - loss_at(density - 0.02)) / 0.04
    assert predicted * measured > 0 and predicted == pytest.approx(measured, rel=0.5)


def test_the_budget_is_met_and_nobody_is_left_empty_or_overfull() -> None:
    densities = torch.tensor([0.9, 0.5, 1e-6])
    assert sum(budget(densities, torch.tensor([10.0, 100.0, 50.0]), 80)) == 80
    kept = budget(densities, torch.tensor([10.0, 100.0, 50.0]), 80)
    assert kept[0] == 10 and kept[2] == 1


def test_bad_options_are_refused() -> None:
    with pytest.raises(SparsityError, match="a share 0 < end <= 1"):
        aswl(rate=0.0)
