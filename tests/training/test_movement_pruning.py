"""Movement: scores are what the formula says, and what moves away from zero stays."""

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.training.gmp import gmp
from rarefy.training.method import SparseMethod
from rarefy.training.movement_pruning import Moving, movement_pruning
from rarefy.training.together import together
from training.loops import mlp, sgd, start, train


@pytest.mark.parametrize("push", [0.0, 0.5])
def test_scores_add_up_gradient_times_weight(push: float) -> None:
    task = mlp()
    trainer, _ = start(task, "movement-pruning", sgd, every=3, rate=2.0, push=push, total_steps=30)
    state = trainer.run.states[1]
    expected = torch.zeros(state.weight.shape)
    for step in range(12):
        task.loss(step).backward()
        half = expected.sigmoid()
        expected = expected - 2.0 * (state.grad() * state.value() + push * half * (1 - half))
        trainer.step()
        trainer.zero_grad()
        assert torch.allclose(state.extra["movement"], expected, atol=1e-6)


def keeps_what_moves(method: SparseMethod) -> None:
    """Of 8 weights the large ones are not needed any more, and the small ones are wanted large."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.1, 0.1, 0.1, 0.1]]))
    y = x[:, 4:].sum(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = rarefy.sparse_training(model, optimizer, method, sparsity=0.5, total_steps=20)
    for _ in range(20):
        (model(x)[:, 0] - y).square().mean().backward()
        trainer.step()
        trainer.zero_grad()
    assert trainer.run.states[0].mask.int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]


def test_small_weights_that_grow_beat_large_ones_that_shrink() -> None:
    assert_beats_impostor(keeps_what_moves, movement_pruning(every=5), gmp(every=5, begin=0.1))


def test_dropped_weights_wait_behind_the_mask_and_may_return() -> None:
    task = mlp()
    trainer, _ = start(task, "movement-pruning", every=2, begin=0.0, end=1.0, sparsity=0.5, total_steps=40)
    state, returned = trainer.run.states[1], 0
    gone = ~state.mask
    for _ in train(task, trainer, 40):
        returned += int((gone & state.mask).sum())
        gone = ~state.mask
        assert bool((state.value() != 0).all())
        assert bool((state.weight.parameter.detach()[~state.mask] == 0).all())
    assert returned > 0


def test_soft_shares_the_budget_over_layers() -> None:
    task = mlp()
    trainer, _ = start(task, "movement-pruning", sgd, soft=True, every=5, sparsity=0.8, total_steps=40)
    list(train(task, trainer, 40))
    size = sum(state.mask.numel() for state in trainer.run.states)
    assert abs(trainer.sparsity - 0.8) <= 1 / size
    shares = [state.kept / state.mask.numel() for state in trainer.run.states]
    assert max(shares) > 1.2 * min(shares)


def test_no_layer_is_emptied_by_the_others() -> None:
    masks = together([torch.full((2, 4), 10.0), torch.tensor([[1.0, 3.0], [2.0, 0.0]])], 1 / 3)
    assert [int(m.sum()) for m in masks] == [3, 1]
    assert masks[1].int().tolist() == [[0, 1], [0, 0]]


def test_frozen_where_dropped_even_with_momentum() -> None:
    state = start(mlp(), "movement-pruning", sgd, every=3)[0].run.states[1]
    state.mask = torch.rand(state.weight.shape) < 0.5
    value = Moving().on_step(state.master + 1.0, state)
    assert torch.equal(value[~state.mask], state.master[~state.mask])
    assert torch.equal(value[state.mask], state.master[state.mask] + 1.0)


@pytest.mark.parametrize("soft", [False, True])
def test_nothing_stale_comes_back_from_behind_the_mask(soft: bool) -> None:
    """A dropped weight takes no steps; the optimizer knows nothing of it when it returns."""
    task, returned = mlp(), 0
    trainer, optimizer = start(
        task, "movement-pruning", every=2, begin=0.0, end=1.0, sparsity=0.5, total_steps=40, soft=soft
    )
    state = trainer.run.states[1]
    was, ever = state.mask.clone(), torch.zeros(state.shape, dtype=torch.bool)
    for _ in train(task, trainer, 40):
        fresh = state.mask & ~was & ever
        memory = optimizer.state[state.weight.parameter]
        assert bool((memory["exp_avg"][fresh] == 0).all()) and bool((memory["exp_avg_sq"][fresh] == 0).all())
        assert bool((memory["exp_avg"][~state.mask] == 0).all())
        returned += int(fresh.sum())
        ever |= was & ~state.mask
        was = state.mask.clone()
    assert returned > 20
