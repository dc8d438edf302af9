import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Score
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.random import Random


def blind_to_the_weights(score: Score) -> None:
    evidence = Evidence("fc", seed=4)
    assert torch.equal(score(torch.randn(8, 8), evidence), score(torch.randn(8, 8), evidence))


def uniform_over_entries(score: Score) -> None:
    """Over many seeds, no entry is kept more often than another: each mean is within 5 sigma of one half."""
    weight = torch.linspace(-1, 1, 64).reshape(8, 8)
    mean = torch.stack([score(weight, Evidence("fc", seed=s)) for s in range(400)]).mean(0)
    assert ((mean - 0.5).abs() < 5 * (1 / 12 / 400) ** 0.5).all()


def test_blind_and_uniform() -> None:
    assert_beats_impostor(blind_to_the_weights, Random(), Magnitude())
    assert_beats_impostor(uniform_over_entries, Random(), Magnitude())


def test_seed_and_site_each_change_the_draw() -> None:
    weight = torch.ones(8, 8)
    draws = [Random()(weight, Evidence(site, seed=seed)) for site, seed in (("a", 0), ("b", 0), ("a", 1))]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
