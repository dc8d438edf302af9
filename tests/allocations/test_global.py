import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.ranked import Global
from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation
from rarefy.core.site import find_sites
from rarefy.scores.magnitude import Magnitude


def model() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    with torch.no_grad():
        layers[1].weight.mul_(3.0)
    return layers


def equals_a_sort_over_all_weights(allocation: Allocation) -> None:
    sites = find_sites(model())[0]
    everything = torch.cat([site.read().abs().flatten() for site in sites])
    threshold = everything.sort(descending=True).values[round(0.3 * len(everything)) - 1]
    chosen = allocation(sites, 0.3, {site.name: Evidence(site.name) for site in sites})
    for site in sites:
        assert chosen[site.name] == pytest.approx((site.read().abs() >= threshold).float().mean().item())


def test_global() -> None:
    assert_beats_impostor(equals_a_sort_over_all_weights, Global(Magnitude()), Uniform())


def test_without_a_score_it_says_what_to_give() -> None:
    with pytest.raises(SparsityError, match=r"Global\(score=Magnitude\(\)\)"):
        Global()(find_sites(model())[0], 0.5, {})
