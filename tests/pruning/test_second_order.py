"""Second-order methods on whole models: one budget, ladders, errors; each beside magnitude, which must fail."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analysis.digits import digits as pictures
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SolverError, SparsityError
from rarefy.core.joint import JointSolution, Supports
from rarefy.pruning import OneShot, prune
from rarefy.pruning.ladder import dealt, rung
from rarefy.solvers.chita import CHITA

METHODS = ("woodfisher", "mfac", "cbs", "chita", "chita-plus-plus")


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def digits(samples: int = 2000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten noisy patterns of 64 pixels that share half of what they are made of, so that weights are correlated."""
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(10, 12, generator=torch.Generator().manual_seed(99))
    mix = torch.randn(12, 64, generator=torch.Generator().manual_seed(98))
    y = torch.randint(0, 10, (samples,), generator=generator)
    x = (shapes[y] + 1.2 * torch.randn(samples, 12, generator=generator)) @ mix / 4
    return x + 0.3 * torch.randn(samples, 64, generator=generator), y


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, y = digits()
    for _ in range(60):
        optimizer.zero_grad()
        loss(model, (x, y)).backward()
        optimizer.step()
    return model


def pruned(trained: nn.Sequential, method: str | OneShot, sparsity: float, **options) -> tuple[nn.Sequential, float]:
    """The model and its accuracy on unseen samples."""
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    model.load_state_dict(trained.state_dict())
    x, y = digits(300, seed=1)
    given = {} if method == "magnitude" else {"data": [(a, b) for a, b in zip(x.split(50), y.split(50), strict=True)]}
    prune(model, method, sparsity=sparsity, loss=loss, **{"allocation": "global", **given, **options})
    x, y = digits(2000, seed=2)
    return model, float((model(x).argmax(1) == y).float().mean())


AHEAD = {"woodfisher": 0.04, "mfac": 0.04, "chita": 0.03, "cbs": 0.06, "chita-plus-plus": 0.15}


@pytest.mark.parametrize("method", METHODS)
def test_better_than_magnitude_at_90_per_cent(trained: nn.Sequential, method: str) -> None:
    """Measured when written: magnitude 0.51, WoodFisher 0.59, M-FAC 0.60, CHITA 0.56, CBS 0.62, CHITA++ 0.74."""
    plain = pruned(trained, "magnitude", 0.9)[1]

    def ahead(name: str) -> None:
        assert pruned(trained, name, 0.9)[1] > plain + AHEAD[method]

    assert_beats_impostor(ahead, method, "magnitude")


def canvas(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of digits in the middle of 16 x 16 pixels whose border is empty, as that of MNIST is."""
    x, y = pictures(samples, seed)
    whole = torch.zeros(samples, 16, 16)
    whole[:, 4:12, 4:12] = x.view(-1, 8, 8) + 0.3
    return whole.flatten(1), y


def test_chita_leads_magnitude_by_ten_points_at_95_per_cent() -> None:
    """Measured when written: dense 0.85, magnitude 0.24, CHITA 0.39.

    The lead is there where inputs are dead, which magnitude cannot see. Of the same pictures without a border neither
    method leaves anything at 95 % (64-256-10: 0.14 and 0.13), and on the published MLPNet magnitude is ahead of CHITA
    with 500 single samples, 5 exchanges and no swaps (83.6 against 82.0 %).
    """

    def net() -> nn.Sequential:
        return nn.Sequential(nn.Linear(256, 20), nn.ReLU(), nn.Linear(20, 10))

    torch.manual_seed(0)
    dense, train, unseen = net(), canvas(3000, 0), canvas(2000, 1)
    optimizer = torch.optim.Adam(dense.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss(dense, train).backward()
        optimizer.step()
    x, y = canvas(600, 5)
    data = list(zip(x.split(50), y.split(50), strict=True))

    def accuracy(method: str) -> float:
        model = net()
        model.load_state_dict(dense.state_dict())
        options = {"damping": 0.03} if method == "chita" else {}
        prune(model, method, sparsity=0.95, allocation="global", data=data, loss=loss, **options)
        return float((model(unseen[0]).argmax(1) == unseen[1]).double().mean())

    plain = accuracy("magnitude")

    def leads(method: str) -> None:
        assert accuracy(method) > plain + 0.1

    assert_beats_impostor(leads, "chita", "magnitude")


@pytest.mark.parametrize("method", METHODS)
def test_one_budget_over_all_layers_is_exact(trained: nn.Sequential, method: str) -> None:
    model, _ = pruned(trained, method, 0.83)
    kept = [int((layer.weight != 0).sum()) for layer in (model[0], model[2])]
    assert sum(kept) == round(0.17 * (64 * 32 + 32 * 10))
    assert kept[0] / (64 * 32) != pytest.approx(kept[1] / (32 * 10), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_stay_through_all_rounds(trained: nn.Sequential, method: str) -> None:
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    model.load_state_dict(trained.state_dict())
    with torch.no_grad():
        model[0].weight[:, ::2] = 0.0
    report = prune(model, method, sparsity=0.7, data=[digits(60)], loss=loss)
    assert not model[0].weight[:, ::2].any()
    assert report.sparsity == pytest.approx(0.7, abs=1e-3)
    assert report.sites[0].already == 32 * 32


def test_more_rounds_with_new_gradients_beat_one(trained: nn.Sequential) -> None:
    assert pruned(trained, "chita-plus-plus", 0.95)[1] > pruned(trained, "chita-plus-plus", 0.95, rounds=1)[1]


def test_a_solver_that_breaks_its_word_is_found_out(trained: nn.Sequential) -> None:
    class Wrong(CHITA):
        def together(self, weight, supports: Supports, evidence):
            return JointSolution(weight, torch.ones_like(weight, dtype=torch.bool))

    before = [p.clone() for p in trained.parameters()]
    for allocation, where in (("global", "all layers"), ("uniform", "0")):
        with pytest.raises(SolverError, match=f"{where}: the solver kept .* were asked"):
            prune(trained, OneShot(Wrong()), sparsity=0.5, allocation=allocation, data=[digits(20)], loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))


def test_what_it_needs_is_asked_for(trained: nn.Sequential) -> None:
    with pytest.raises(DataError, match="PER_SAMPLE_GRADIENT take a backward pass; give loss="):
        prune(trained, "chita", sparsity=0.5, data=[digits(20)])
    with pytest.raises(SparsityError, match="repair='weights': CHITA decides over all layers together"):
        prune(trained, "chita", sparsity=0.5, data=[digits(20)], loss=loss, repair="weights")


@pytest.mark.parametrize("ladder", ["geometric", "halving"])
def test_a_ladder_comes_down_to_the_density(ladder) -> None:
    for density in (0.02, 0.5, 0.95):
        rungs = [rung(density, step, 7, ladder) for step in range(1, 8)]
        assert rungs == sorted(rungs, reverse=True) and rungs[-1] == density and rungs[0] < 1.0
        assert rung(density, 1, 1, ladder) == density


def test_data_are_dealt_without_overlap_until_there_are_none_left() -> None:
    parts = [dealt(list(range(10)), step, 3) for step in (1, 2, 3)]
    assert sorted(i for part in parts for i in part) == list(range(10))
    assert dealt([7, 8], 3, 5) == [7]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e10, 1e18, 1e25, 1e33])
def test_huge_gradients_end_in_a_mask_or_in_an_error(trained: nn.Sequential, method: str, scale: float) -> None:
    """They are finite themselves, their products may not be: no ridge makes up for that."""
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    model.load_state_dict(trained.state_dict())
    refused = None
    try:
        report = prune(model, method, sparsity=0.5, data=[digits(60)], loss=lambda m, b: scale * loss(m, b))
    except (DataError, SolverError) as error:
        refused = str(error)
    if refused is None:
        assert report.sparsity == pytest.approx(0.5, abs=1e-3)
        assert all(p.isfinite().all() for p in model.parameters())
    else:
        assert re.search(r"gradient.*scale the loss down", refused)
        assert all(torch.equal(v, trained.state_dict()[k]) for k, v in model.state_dict().items())
    assert (refused is not None) == (scale > 1e15)


@pytest.mark.parametrize("method", [*METHODS, "snip", "movement", "gradient", "grasp", "obd", "fisher"])
def test_gradients_that_are_not_finite_name_their_layer(trained: nn.Sequential, method: str) -> None:
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    model.load_state_dict(trained.state_dict())
    with pytest.raises(DataError, match=r"^0: .*gradient.* holds NaN or infinity"):
        prune(model, method, sparsity=0.5, data=[digits(60)], loss=lambda m, b: (0 * m(b[0])).square().sum().sqrt())
