"""Sparse first, dense then: zeros stay, the switch changes nothing, and former zeros move."""

import pytest
import torch

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.training.method import SparseMethod
from rarefy.training.spdf import open_all, spdf, training_products
from rarefy.training.static import static
from training.loops import adam, mlp, start, train


def sparse_then_dense(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, adam(task.model), method, sparsity=0.75, total_steps=40)
    zero = task.model[2].weight.detach() == 0
    assert float(zero.float().mean()) == 0.75
    list(train(task, trainer, 29))
    assert torch.equal(task.model[2].weight.detach() == 0, zero)
    list(train(task, trainer, 11, 29))
    assert trainer.sparsity == 0.0
    moved = task.model[2].weight.detach() != 0
    assert (
        float(moved[zero & between_live_units(task.model, torch.cat([x for x, _ in task.batches]))].float().mean())
        > 0.95
    )


def between_live_units(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The entries (out, in) of the second layer that have a gradient: both their units are on for some input."""
    inputs = torch.relu(model[0](x))
    outputs = torch.relu(model[2](inputs))
    return (outputs > 0).any(0)[:, None] & (inputs > 0).any(0)


def test_zeros_stay_and_then_all_weights_train() -> None:
    assert_beats_impostor(sparse_then_dense, spdf(switch=0.75), static())


def test_the_switch_itself_changes_no_output() -> None:
    task = mlp()
    trainer, optimizer = start(task, "spdf", sparsity=0.75, total_steps=1000)
    list(train(task, trainer, 10))
    gone, x = ~trainer.run.states[1].mask, task.batches[0][0]
    before = task.model(x)
    open_all(trainer.run)
    assert torch.equal(task.model(x), before) and trainer.sparsity == 0.0
    assert bool((optimizer.state[task.model[2].weight]["exp_avg"][gone] == 0).all())
    list(train(task, trainer, 1, 10))
    moved = task.model[2].weight.detach()[gone].abs()
    assert 0.0 < float(moved.max()) <= 0.0101  # a first step of Adam


def test_the_cost_counts_both_phases() -> None:
    assert training_products(0.25, 1.0) == 0.25 and training_products(0.25, 0.8) == pytest.approx(0.4)
    with pytest.raises(SparsityError, match="without steps"):
        spdf(switch=1.0)
