"""Searches over allocations: the budget exact, never worse than uniform, a planted optimum found."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.searched import Evolution, RandomSearch
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Search
from rarefy.pruning import prune

SIZES = {"a": 100, "b": 200, "c": 400, "d": 50}
TARGET = {"a": 0.9, "b": 0.5, "c": 0.2, "d": 0.6}
DENSITY = sum(SIZES[k] * v for k, v in TARGET.items()) / sum(SIZES.values())


def distance(densities: Mapping[str, float]) -> float:
    return sum((densities[name] - wanted) ** 2 for name, wanted in TARGET.items())


class Nothing:
    """The impostor: uniform, whatever the loss says."""

    def search(self, sizes, density, loss_of, seed):
        return dict.fromkeys(sizes, density)


@pytest.mark.parametrize("search", [RandomSearch(trials=200), Evolution()])
def test_the_planted_allocation_is_approached(search: Search) -> None:
    def near(tried: Search) -> None:
        found = tried.search(SIZES, DENSITY, distance, seed=0)
        assert distance(found) < 0.35 * distance(dict.fromkeys(SIZES, DENSITY))
        assert sum(SIZES[k] * v for k, v in found.items()) == pytest.approx(DENSITY * sum(SIZES.values()))
        assert all(0 <= v <= 1 for v in found.values())

    assert_beats_impostor(near, search, Nothing())


def test_evolution_needs_fewer_looks_than_random_search() -> None:
    looks = 161
    mean = [
        sum(distance(search.search(SIZES, DENSITY, distance, seed)) for seed in range(5))
        for search in (Evolution(), RandomSearch(trials=looks))
    ]
    assert mean[0] < mean[1]


def deep() -> tuple[nn.Sequential, list[torch.Tensor]]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 64))
    with torch.no_grad():
        model[0].weight[8:] *= 0.01
    return model, [torch.randn(64, 24)]


@pytest.mark.parametrize("allocation", ["random-search", "evolution"])
def test_in_the_door_by_name_without_and_with_a_loss(allocation: str) -> None:
    dense = deep()[0](deep()[1][0]).detach()
    for loss in (None, lambda m, x: (m(x) - dense).square().mean()):
        errors = []
        for spread in (allocation, "uniform"):
            model, (x,) = deep()
            report = prune(model, "wanda", sparsity=0.6, pattern="layerwise", allocation=spread, data=[x], loss=loss)
            errors.append(float((model(x).detach() - dense).square().sum()))
            assert report.sparsity == pytest.approx(0.6, abs=2e-3)
        assert errors[0] < 0.7 * errors[1]


def test_data_are_asked_for_and_n_of_m_cannot_be_spread() -> None:
    model, data = deep()
    with pytest.raises(DataError, match="needs calibration data"):
        prune(model, "magnitude", sparsity=0.5, allocation="evolution")
    with pytest.raises(SparsityError, match="2:4 has one density, Evolution cannot spread it"):
        prune(model, "magnitude", pattern="2:4", allocation="evolution", data=data)
    with pytest.raises(SparsityError, match="trials"):
        RandomSearch(trials=0)
