"""The reparameterisation is exact, begins where the net is, and leaves fewer weights that matter."""

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.training.gmp import gmp
from rarefy.training.method import SparseMethod
from rarefy.training.powerpropagation import powerpropagation
from training.loops import mlp, sgd, start, train


def test_the_net_begins_as_it_was_and_follows_the_chain_rule() -> None:
    task = mlp()
    before = task.model[2].weight.detach().clone()
    trainer, _ = start(task, "powerpropagation", sgd, alpha=3.0, total_steps=40)
    state = trainer.run.states[1]
    assert torch.allclose(task.model[2].weight.detach(), before, atol=1e-6)
    v = state.value().clone().requires_grad_(True)
    task.loss(0).backward()
    raw = state.grad().clone()
    (v * v.abs() ** 2 * raw).sum().backward()
    assert torch.allclose(trainer.method.transform.on_grad(raw, state.value(), state), v.grad, rtol=1e-4, atol=1e-7)
    list(train(task, trainer, 40))
    shown = task.model[2].weight.detach()
    assert torch.allclose(shown, state.value() * state.value().abs() ** 2, atol=1e-7)


def test_alpha_one_is_ordinary_training() -> None:
    losses = []
    for name, more in (("powerpropagation", {"alpha": 1.0}), ("gmp-zhu-gupta", {"begin": 0.5})):
        task = mlp()
        trainer, _ = start(task, name, sgd, total_steps=40, every=100, **more)
        losses.append(list(train(task, trainer, 18)))
    assert losses[0] == losses[1]


def concentrates(method: SparseMethod) -> None:
    """Sixteen copies of one input: ordinary training shares the work equally, this one gives it to the first."""
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    model = nn.Linear(16, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.weight[0, 0] = 0.3
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = rarefy.sparse_training(model, optimizer, method, sparsity=0.5, total_steps=10_000)
    for _ in range(500):
        (model(x.expand(64, 16)) - 8.0 * x).square().mean().backward()
        trainer.step()
        trainer.zero_grad()
    weight = model.weight.detach()[0]
    assert abs(float(weight.sum()) - 8.0) < 0.1
    assert float(weight[0]) > 0.4 * 8.0


def test_the_large_grow_larger_and_the_small_stay_small() -> None:
    assert_beats_impostor(concentrates, powerpropagation(alpha=4.0), gmp())


def test_dropped_weights_stay_zero_behind_the_view_too() -> None:
    task = mlp()
    trainer, _ = start(task, "powerpropagation", sparsity=0.9, every=4, total_steps=40)
    list(train(task, trainer, 40))
    assert all(bool((state.value()[~state.mask] == 0).all()) for state in trainer.run.states)


def test_alpha_below_one_is_refused() -> None:
    with pytest.raises(SparsityError, match="alpha >= 1"):
        powerpropagation(alpha=0.5)
