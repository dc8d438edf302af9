"""The catalogued check: twenty digit nets and their twins by magnitude and by variational dropout."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.allocations.ranked import Global
from rarefy.analysis.held_zeros import fit, zeros_of
from rarefy.analysis.variational_dropout import divergence, drop_noise, train_noise
from rarefy.analysis.zoo_twins import Twins, layer_distance, lead, zoo_twins
from rarefy.core.errors import DataError
from rarefy.core.evidence import Evidence
from rarefy.core.site import find_sites
from rarefy.scores.magnitude import Magnitude

X, Y = digits(600, seed=0)
TEST = digits(600, seed=1)
BATCHES = list(zip(X.split(60), Y.split(60), strict=True))
SPARSITIES = (0.0, 0.6, 0.8, 0.95)


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def make(seed: int, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    fit(model, BATCHES, loss, epochs=epochs, rate=1e-2, seed=seed)
    return model


@pytest.fixture(scope="module")
def zoo() -> list[nn.Module]:
    """They differ by seed and by how long they were trained."""
    return [make(seed, 4 + 3 * (seed % 5)) for seed in range(20)]


def by_score(model: nn.Module, sparsity: float, score: Magnitude | None) -> None:
    sites = find_sites(model)[0]
    evidence = {site.name: Evidence(site.name) for site in sites}
    densities = Global(Magnitude())(sites, 1.0 - sparsity, evidence)
    generator = torch.Generator().manual_seed(0)
    for site in sites:
        weight = site.read()
        ranked = weight.abs() if score else torch.rand(weight.shape, generator=generator)
        count = round(densities[site.name] * weight.numel())
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[ranked.reshape(-1).topk(count).indices] = True
        site.write(weight, mask.view(weight.shape))


def magnitude(model: nn.Module, sparsity: float, number: int) -> None:
    by_score(model, sparsity, Magnitude())
    fit(model, BATCHES, loss, epochs=1, rate=2e-3, seed=number)


def random(model: nn.Module, sparsity: float, number: int) -> None:
    by_score(model, sparsity, None)


def variational(model: nn.Module, sparsity: float, number: int) -> None:
    noise = train_noise(model, BATCHES, loss, epochs=4, rate=5e-3, samples=len(X), warm=2, seed=number)
    drop_noise(model, noise, sparsity=sparsity)


@pytest.fixture(scope="module")
def twins(zoo: list[nn.Module]) -> list[Twins]:
    return zoo_twins(zoo, magnitude, *TEST, sparsities=SPARSITIES)


def test_agreement_starts_at_one_and_falls(twins: list[Twins]) -> None:
    means = [sum(row.agreement) / len(row.agreement) for row in twins]
    assert twins[0].agreement == (1.0,) * 20 and twins[0].accuracy == twins[0].original
    assert all(a > b for a, b in itertools.pairwise(means))
    assert twins[0].mean > 0.75 and twins[0].spread > 0.01, "the zoo has learnt something, and not all the same"


def test_figures_equal_numpys(twins: list[Twins]) -> None:
    for row in twins:
        assert row.correlation == pytest.approx(np.corrcoef(row.accuracy, row.original)[0, 1])
        assert row.spread == pytest.approx(np.std(row.accuracy, ddof=1))
    assert twins[1].correlation > 0.5
    flat = Twins(0.5, (0.5, 0.5), (0.4, 0.6), (1.0, 1.0), {})
    assert math.isnan(flat.correlation)


def test_the_zoo_stays_as_it_was(zoo: list[nn.Module], twins: list[Twins]) -> None:
    assert not any(bool(z.any()) for model in zoo for z in zeros_of(model).values())
    zeros = sum(share * size for share, size in zip(twins[2].layers.values(), (1280, 200), strict=True))
    assert zeros == pytest.approx(0.8 * 1480, abs=1)


def ahead_of_random(sparsify) -> None:
    zoo = [make(seed, 10) for seed in range(6)]
    first, second = (zoo_twins(zoo, method, *TEST, sparsities=[0.8])[0] for method in (sparsify, random))
    found = lead(first, second)
    assert found.sure and found.interval[0] <= found.difference <= found.interval[1] and found.difference > 0.1


def test_a_better_method_leads_surely() -> None:
    assert_beats_impostor(ahead_of_random, magnitude, random)


def test_lead_wants_the_same_models(twins: list[Twins]) -> None:
    with pytest.raises(DataError, match="same models"):
        lead(twins[0], twins[1])
    with pytest.raises(DataError, match="two models"):
        zoo_twins([make(0, 4)], magnitude, *TEST)


def test_variational_dropout_takes_other_layers(zoo: list[nn.Module]) -> None:
    """And learns: at the same sparsity it is far better than a random mask."""
    some = zoo[:4]
    noisy, plain, chance = (
        zoo_twins(some, method, *TEST, sparsities=[0.7])[0] for method in (variational, magnitude, random)
    )
    assert layer_distance(noisy, plain) > 0.02 and layer_distance(plain, plain) == 0.0
    assert noisy.mean > chance.mean + 0.1


def test_the_threshold_drops_what_is_mostly_noise() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    drop_noise(model, {"0": torch.tensor([[2.9, 3.1, 3.0, 9.0]] * 3)})
    assert (model[0].weight == 0).tolist() == [[False, True, False, True]] * 3


def test_divergence_is_the_papers() -> None:
    """Against the integral that it approximates: KL = -H(q) - E log prior up to a constant, 0 for much noise."""
    alpha = torch.tensor([-8.0, -2.0, 0.0, 3.0, 12.0], dtype=torch.float64)
    found = divergence(alpha)
    eps = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.stack([-0.5 * a + (1 + (0.5 * a).exp() * eps).abs().log().mean() for a in alpha])
    torch.testing.assert_close(found, exact - exact[-1], rtol=0.02, atol=0.02)
