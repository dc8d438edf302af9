import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.lamp import LAMP, lamp_scores
from rarefy.allocations.ranked import Global
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation
from rarefy.core.site import Site, find_sites
from rarefy.scores.magnitude import Magnitude


def layers() -> list[Site]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40))
    with torch.no_grad():
        model[1].weight.mul_(0.001)
    return find_sites(model)[0]


def a_layer_of_small_weights_keeps_as_much(allocation: Allocation) -> None:
    """Scaling a layer changes none of its LAMP scores; in a global ranking by magnitude it vanishes."""
    sites = layers()
    chosen = allocation(sites, 0.1, {site.name: Evidence(site.name) for site in sites})
    assert chosen["1"] > 0.05


def test_lamp() -> None:
    assert_beats_impostor(a_layer_of_small_weights_keeps_as_much, LAMP(), Global(Magnitude()))


def test_scores_by_hand() -> None:
    found = lamp_scores(torch.tensor([[1.0, -2.0], [3.0, 2.0]]))
    expected = torch.tensor([[1 / 18, 4 / 17], [1.0, 4 / 13]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_the_order_within_a_layer_is_that_of_magnitude_and_the_largest_scores_one() -> None:
    weight = torch.randn(20, 30)
    scores = lamp_scores(weight)
    assert torch.equal(scores.flatten().argsort(), weight.abs().flatten().argsort())
    assert scores.max() == 1.0
    assert torch.equal(lamp_scores(torch.zeros(2, 2)), torch.zeros(2, 2, dtype=torch.float64))
