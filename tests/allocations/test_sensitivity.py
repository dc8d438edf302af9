import itertools

import pytest
import torch
from torch import nn

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.allocations.sensitivity import Sensitivity
from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation
from rarefy.core.site import Site, find_sites
from rarefy.scores.magnitude import Magnitude


def layers() -> tuple[list[Site], dict[str, Evidence]]:
    """Layer 0 has 90 % of weights that hardly matter; layers 1 and 2 need what they have, layer 2 is larger."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, 60))
    with torch.no_grad():
        model[0].weight.copy_(torch.where(torch.rand(30, 30) < 0.9, 0.01, 1.0) * torch.randn(30, 30))
        model[1].weight.copy_(torch.randn(30, 30).sign())
    sites = find_sites(model)[0]
    return sites, {s.name: evidence_of(s.read(), torch.randn(100, 30), site=s.name) for s in sites}


def total_error(chosen: dict[str, float]) -> float:
    sites, evidence = layers()
    return sum(Sensitivity().errors(s, [chosen[s.name]], evidence[s.name])[0] for s in sites)


def costs_less_than_uniform(allocation: Allocation) -> None:
    chosen = allocation(*_with(0.5))
    assert total_error(chosen) < 0.8 * total_error(dict.fromkeys(chosen, 0.5))
    assert chosen["0"] < 0.2


def _with(density: float) -> tuple[list[Site], float, dict[str, Evidence]]:
    sites, evidence = layers()
    return sites, density, evidence


def test_sensitivity() -> None:
    assert_beats_impostor(costs_less_than_uniform, Sensitivity(), Uniform())


def test_no_allocation_on_the_grid_is_better() -> None:
    """Every combination of densities on a coarse grid that meets the budget, by brute force."""
    sites, evidence = layers()
    sizes = [s.shape[0] * s.shape[1] for s in sites]
    grid = [0.05 * i for i in range(1, 21)]
    curves = [Sensitivity().errors(s, grid, evidence[s.name]) for s in sites]
    budget = 0.5 * sum(sizes)
    best = min(
        sum(curve[i] for curve, i in zip(curves, picked, strict=True))
        for picked in itertools.product(range(20), repeat=3)
        if sum(size * grid[i] for size, i in zip(sizes, picked, strict=True)) <= budget + 1e-6
    )
    assert total_error(Sensitivity()(sites, 0.5, evidence)) <= 1.05 * best


def test_another_score_and_impossible_fields() -> None:
    sites, evidence = layers()
    assert Sensitivity(Magnitude())(sites, 0.5, evidence)["0"] < 0.2
    with pytest.raises(SparsityError, match="power"):
        Sensitivity(power=0.0)
