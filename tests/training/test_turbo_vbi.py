"""Turbo-VBI: sums over chains, the two updates, and planted runs of weights."""

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.training.chain import Chain
from rarefy.training.support_prior import SupportPrior, infer
from rarefy.training.turbo_vbi import empty_rows, found_density, runs, turbo_vbi
from training.loops import adam, mlp, start, train


def test_marginals_are_those_of_all_1024_states() -> None:
    chain = Chain(0.3, 0.2)
    evidence = torch.randn(1, 10, generator=torch.Generator().manual_seed(0), dtype=torch.double) * 2
    on = torch.zeros(10, dtype=torch.double)
    total = 0.0
    for state in itertools.product((0, 1), repeat=10):
        chance = 0.3 if state[0] else 0.7
        for a, b in itertools.pairwise(state):
            step = (1 - chain.death if b else chain.death) if a else (chain.birth if b else 1 - chain.birth)
            chance *= step
        chance *= math.exp(float((evidence[0] * torch.tensor(state)).sum()))
        total += chance
        on += chance * torch.tensor(state)
    assert torch.allclose(torch.sigmoid(chain.extrinsic(evidence) + evidence)[0], on / total, atol=1e-12)


def test_independent_entries_know_nothing_of_each_other_and_extremes_stay_finite() -> None:
    evidence = torch.randn(3, 7, dtype=torch.double)
    assert torch.allclose(Chain(0.2, 0.8).extrinsic(evidence), torch.full((3, 7), math.log(0.25)).double())
    assert bool(Chain(1e-4, 0.1).extrinsic(torch.full((2, 300), 60.0)).isfinite().all())
    assert bool(Chain(0.5, 1.0).extrinsic(torch.full((2, 300), -60.0)).isfinite().all())


def test_both_updates_are_the_expectations_that_they_stand_for() -> None:
    """On a grid: q(rho) = exp(E log p(rho | s) + E log p(w | rho)); the odds of s: E log p(rho | 1) / p(rho | 0)."""
    prior = SupportPrior(1.5, 0.4, 2.0, 0.01)
    chance, square = torch.tensor(0.35).double(), torch.tensor(0.2).double()
    shape, rate = prior.precision(chance, square)
    rho = torch.linspace(1e-6, 600.0, 4_000_001, dtype=torch.double)

    def log_gamma(a: float, b: float) -> Tensor:
        return a * math.log(b) - math.lgamma(a) + (a - 1) * rho.log() - b * rho

    on, off = log_gamma(1.5, 0.4), log_gamma(2.0, 0.01)
    q = torch.exp(0.35 * on + 0.65 * off + 0.5 * rho.log() - 0.5 * rho * 0.2)
    q = q / torch.trapezoid(q, rho)
    assert float(torch.trapezoid(q * rho, rho)) == pytest.approx(float(shape / rate), rel=1e-4)
    assert float(torch.trapezoid(q * rho**2, rho)) == pytest.approx(float(shape * (shape + 1) / rate**2), rel=1e-4)
    assert float(torch.trapezoid(q * (on - off), rho)) == pytest.approx(float(prior.evidence(shape, rate)), rel=1e-3)


def planted() -> tuple[Tensor, Tensor, Tensor]:
    """x, y = x W^T + noise and the support of W (8, 60): two runs of six in each row."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(8, 60, dtype=torch.bool)
    for row in range(8):
        first = int(torch.randint(0, 22, (), generator=generator))
        second = int(torch.randint(30, 54, (), generator=generator))
        mask[row, first : first + 6] = mask[row, second : second + 6] = True
    weight = torch.randn(8, 60, generator=generator) * 0.3 * mask
    x = torch.randn(90, 60, generator=generator)
    return x, x @ weight.t() + 0.9 * torch.randn(90, 8, generator=generator), mask


def regressed(along: str) -> Tensor:
    x, y, truth = planted()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(60, 8, bias=False))
    torch.nn.init.normal_(model[0].weight, std=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsity = 1 - float(truth.float().mean())
    options = {"along": along, "death": 1 / 6, "every": 25, "examples": 90, "first": 0.3, "lr": 0.03}
    trainer = rarefy.sparse_training(model, optimizer, turbo_vbi(**options), sparsity=sparsity, total_steps=300)
    for _ in range(300):
        (0.5 * (model(x) - y).square().sum(1).mean() / 0.9**2).backward()
        trainer.step()
        trainer.zero_grad()
    return trainer.run.states[0].mask


@functools.cache
def without_chains() -> Tensor:
    return regressed("independent")


def finds_the_runs(found: Tensor) -> None:
    truth, plain = planted()[2], without_chains()
    assert int(found.sum()) == int(truth.sum()) == int(plain.sum())

    def right(mask: Tensor) -> float:
        return float((mask & truth).sum() / truth.sum())  # F1, as both are equally many

    assert right(found) > right(plain) + 0.02
    assert runs(found) < 0.8 * runs(plain)


def test_planted_runs_are_found_better_than_with_independent_weights() -> None:
    assert_beats_impostor(finds_the_runs, regressed("rows"), without_chains())


def test_chains_fill_gaps_and_go_along_rows_or_columns() -> None:
    prior, chain = SupportPrior(1.0, 0.09, 1.0, 0.09 * 0.15**2), Chain(0.3, 0.1)
    weight = torch.zeros(9, 9)
    weight[4, 1:8] = 0.4
    weight[4, 4] = 0.07  # a gap
    chance = torch.full((9, 9), 0.3)
    along, _ = infer(weight.square(), chance, prior, chain)
    across, _ = infer(weight.square(), chance, prior, chain, columns=True)
    alone, precision = infer(weight.square(), chance, prior, Chain(0.3, 0.7))
    assert along[4, 4] > alone[4, 4] > across[4, 4]
    turned, _ = infer(weight.t().square(), chance, prior, chain, columns=True)
    assert torch.allclose(turned.t(), along)
    assert precision[0, 0] > 10 * precision[4, 2]


def test_in_a_training_precisions_press_what_is_not_there() -> None:
    task = mlp()
    trainer, _ = start(task, "turbo-vbi-structured-bayes", adam, every=4, examples=1000)
    list(train(task, trainer, 17))
    state = trainer.run.states[1]
    assert bool(state.mask.all()) and 0.0 < found_density(trainer)["2"] < 1.0
    off = state.extra["odds"] < 0
    assert float(state.extra["precision"][off].mean()) > 2 * float(state.extra["precision"][~off].mean())
    list(train(task, trainer, 7, 17))
    best = state.extra["odds"].flatten().topk(state.count).values.min()
    assert state.kept == state.count and bool((state.extra["odds"][~state.mask] <= best).all())


def test_counting_and_bad_input() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    assert runs(mask) == 4 and empty_rows(mask).tolist() == [False, True, False]
    with pytest.raises(UnknownNameError, match="along"):
        turbo_vbi(along="diagonal")
    with pytest.raises(SparsityError, match="narrow=1"):
        turbo_vbi(narrow=1.0)
    with pytest.raises(SparsityError, match="Chain: density"):
        Chain(0.9, 0.5)
    with pytest.raises(SparsityError, match="the larger ratio"):
        SupportPrior(1.0, 0.1, 1.0, 1.0)
