"""Larger sparse layers cost what the dense layer costs."""

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.allocations.given import Given
from rarefy.core.errors import ModelError, SparsityError, UnknownNameError
from rarefy.training.sparse_ift import IsoFlop, products, sparse_ift


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 32))


@pytest.mark.parametrize("kind", ["wide", "parallel", "factorized", "doped"])
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
def test_the_cost_is_that_of_the_dense_net_and_the_shape_stays(kind: str, sparsity: float) -> None:
    dense = net()
    found = sparse_ift(dense, kind, sparsity=sparsity)
    assert abs(found.products / products(dense) - 1) < 0.005
    assert products(found.model) > 1.3 * products(dense)
    assert found.model(torch.ones(3, 64)).shape == (3, 32)
    assert len(dense) == 5 and dense[2].weight.shape == (256, 256)


def hidden_cost(found: IsoFlop) -> None:
    layer = found.model[2]
    assert abs(layer.in_features * layer.out_features * 0.25 / 256**2 - 1) < 0.005


def test_without_the_width_factor_the_cost_is_wrong() -> None:
    assert_beats_impostor(hidden_cost, sparse_ift(net(), sparsity=0.75), IsoFlop(net(), {}))


@pytest.mark.parametrize("kind", ["wide", "factorized"])
def test_it_trains_at_the_densities_it_gives(kind: str) -> None:
    dense = net()
    found = sparse_ift(dense, kind, sparsity=0.75)
    optimizer = torch.optim.SGD(found.model.parameters(), lr=0.1)
    trainer = rarefy.sparse_training(
        found.model, optimizer, "rigl", sparsity=0.75, allocation=Given(found.densities), total_steps=20, every=4
    )
    for _ in range(8):
        found.model(torch.randn(8, 64)).square().mean().backward()
        trainer.step()
        trainer.zero_grad()
    kept = sum(state.kept for state in trainer.run.states)
    assert abs(kept / products(dense) - 1) < 0.005


def test_one_layer_alone_and_bad_input() -> None:
    found = sparse_ift(nn.Linear(32, 32), "doped", sparsity=0.5)
    assert abs(found.products / 1024 - 1) < 0.005
    with pytest.raises(SparsityError, match="no whole number of branches"):
        sparse_ift(net(), "parallel", sparsity=0.7)
    with pytest.raises(SparsityError, match=r"outside \(0, 1\)"):
        sparse_ift(net(), sparsity=0.0)
    with pytest.raises(UnknownNameError, match="kind"):
        sparse_ift(net(), "deep", sparsity=0.5)
    with pytest.raises(ModelError, match=r"give an nn\.Sequential of layers, or another kind"):
        sparse_ift(nn.ModuleDict({"a": nn.Linear(2, 2)}), sparsity=0.5)
    with pytest.raises(ModelError, match="BatchNorm1d, whose width cannot be changed here; take another kind"):
        sparse_ift(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)), sparsity=0.5)
    with pytest.raises(ModelError, match="no linear layer to replace: it has none; nothing was changed"):
        sparse_ift(nn.Sequential(nn.Conv2d(1, 1, 1)), "doped", sparsity=0.5)
