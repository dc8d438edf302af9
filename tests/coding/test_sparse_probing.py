"""Planted features are recovered by every ranker, and the exact solver is that of brute force."""

from functools import partial
from itertools import combinations

import pytest
import torch
from torch import Tensor

from contracts.impostor import assert_beats_impostor
from rarefy.coding.best_subset import best_subset, subset_loss
from rarefy.coding.logistic import fit_logistic
from rarefy.coding.probe_rankers import RANKERS
from rarefy.coding.sparse_probing import choose, quality, sparse_probing
from rarefy.core.errors import DataError, SolverError, UnknownNameError

EIGHT = tuple(range(20, 28))


def planted(samples: int = 1200, width: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, a label that neuron 5 tells alone, and one that is spread over eight neurons."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, width, generator=generator)
    one, eight = (torch.rand(samples, generator=generator) < 0.3 for _ in range(2))
    x[:, 5] += 6.0 * one
    x[:, list(EIGHT)] += 1.3 * eight[:, None]
    return x, one, eight


@pytest.mark.parametrize("ranker", [*RANKERS])
def test_every_ranker_recovers_the_supports(ranker: str) -> None:
    x, one, eight = planted()
    assert choose(x, one, 1, ranker) == (5,)
    assert choose(x, eight, 8, ranker) == EIGHT


def test_the_curve_tells_one_neuron_from_eight() -> None:
    x, one, eight = planted()
    alone = {p.k: p.f1 for p in sparse_probing(x, one, ks=(1, 2, 4, 8, 16))}
    spread = {p.k: p.f1 for p in sparse_probing(x, eight, ks=(1, 2, 4, 8, 16))}
    assert alone[1] > 0.97 and max(alone.values()) - alone[1] < 0.02
    assert spread[1] < 0.8 and spread[8] > 0.93 and spread[8] > spread[4] + 0.02
    assert spread[16] < spread[8] + 0.02


def test_the_ranking_is_of_the_training_split_only() -> None:
    x, one, _ = planted(200)
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(200, generator=generator) < 0.5

    def check(ranking: str) -> None:
        if ranking == "training":
            found = [sparse_probing(x, noise, ks=(4,), seed=s, ranker="f-score")[0].mcc for s in range(12)]
        else:
            neurons = list(choose(x, noise, 4, "f-score"))
            found = [sparse_probing(x[:, neurons], noise, ks=(4,), seed=s, ranker="f-score")[0].mcc for s in range(12)]
        assert sum(found) / 12 < 0.1

    assert_beats_impostor(check, "training", "all samples")
    assert sparse_probing(x, one, ks=(1,)) == sparse_probing(x, one, ks=(1,))


@pytest.mark.parametrize("k", [1, 2])
def test_the_exact_solver_is_brute_force(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    shared = torch.randn(150, 4, generator=generator)
    x = shared @ torch.randn(4, 20, generator=generator) + 0.5 * torch.randn(150, 20, generator=generator)
    label = x[:, 3] - x[:, 11] + torch.randn(150, generator=generator) > 0
    found = best_subset(x, label, k)
    z = ((x - x.mean(0)) / x.std(0)).double()
    y = label.double() * 2 - 1
    y = y - y.mean()
    losses = {s: subset_loss(z, y, s, 10.0 / 150)[0] for s in combinations(range(20), k)}
    assert found.neurons == min(losses, key=lambda s: losses[s]) and found.gap == 0.0
    assert found.objective == pytest.approx(min(losses.values()))
    part = z[:, list(found.neurons)]
    ridge = torch.linalg.solve(part.T @ part + 15 * torch.eye(k, dtype=torch.float64), part.T @ y)
    wanted = (y - part @ ridge).square().sum() / 2 + 7.5 * ridge.square().sum()
    assert found.objective == pytest.approx(float(wanted))


def test_the_proof_is_open_after_too_few_cuts() -> None:
    x, _, eight = planted(300, 40)
    assert best_subset(x, eight, 3, cuts=1).gap > 0


def test_a_choice_that_was_not_proved_is_no_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, one, eight = planted(300, 40)
    assert choose(x[:, :12], one, 1, "exact") == (5,)
    found = partial(best_subset, cuts=1)
    monkeypatch.setattr("rarefy.coding.sparse_probing.best_subset", found)
    with pytest.raises(SolverError, match=r"best 3 of 40 neurons after 1 cuts .* open"):
        choose(x, eight, 3, "exact")


def test_the_fit_is_at_the_minimum() -> None:
    x, one, _ = planted(300)
    fit = fit_logistic(x[:, 4:7], one)
    weight, bias = (part.double().requires_grad_() for part in (fit.weight, fit.bias))
    each = torch.where(one, 0.5 / one.double().mean(), 0.5 / (~one).double().mean()) / 300
    sign = one.double() * 2 - 1
    loss = (each * torch.nn.functional.softplus(-sign * (x[:, 4:7].double() @ weight + bias))).sum()
    (loss + 0.5e-3 * weight.square().sum()).backward()
    assert float(weight.grad.abs().max()) < 1e-5 and float(bias.grad.abs()) < 1e-5


def test_the_measures_are_those_of_the_book() -> None:
    label = torch.tensor([True] * 10 + [False] * 10)
    calls = torch.tensor([True] * 8 + [False] * 2 + [True] * 2 + [False] * 8)
    assert quality(calls, label) == pytest.approx((0.8, 0.8, 0.8, 0.6))
    assert quality(torch.zeros(20, dtype=torch.bool), label) == (0.0, 0.0, 0.0, 0.0)


def test_bad_input_is_named() -> None:
    x, one, _ = planted(50)
    with pytest.raises(UnknownNameError, match="f-score"):
        sparse_probing(x, one, ranker="fscore")
    with pytest.raises(DataError, match="give both"):
        sparse_probing(x, torch.zeros(50, dtype=torch.bool))
    with pytest.raises(DataError, match="held_out"):
        sparse_probing(x, one, held_out=1.0)
    with pytest.raises(DataError, match="k=0"):
        best_subset(x, one, 0)
    with pytest.raises(DataError, match=r"label torch.int64 \(50,\); give"):
        sparse_probing(x, one.long())
    with pytest.raises(DataError, match="ks has 0"):
        sparse_probing(x, one, ks=(1, 0))
    with pytest.raises(DataError, match="holds NaN"):
        sparse_probing(x / 0.0, one)


@pytest.mark.parametrize("ranker", [*RANKERS, "exact"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_of_half_precision_have_the_neurons_of_their_float32(ranker: str, dtype: torch.dtype) -> None:
    x, one, _ = planted(120)
    x[:, 6] = 0.0  # a dead neuron
    x = x[:, :16].to(dtype)
    found, wanted = (sparse_probing(part, one, ks=(1, 2), ranker=ranker) for part in (x, x.float()))
    assert found == wanted and found[0].neurons == (5,)


def test_neurons_that_never_change_can_be_ranked() -> None:
    label = torch.arange(50) % 2 == 0
    for ranker in RANKERS:
        assert sparse_probing(torch.ones(50, 5), label, ks=(1,), ranker=ranker)[0].mcc == 0.0
