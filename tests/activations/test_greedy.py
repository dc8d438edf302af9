"""The greedy shares: they are what trying everything at each step finds, and WINA and R-Sparse gain by them too."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.activations.allocate import MOST, STEP, block_error, greedy
from rarefy.activations.job import Activations, Job
from rarefy.activations.quantiles import Maker, makers
from rarefy.activations.r_sparse import RSparse
from rarefy.activations.teal import Teal
from rarefy.activations.wina import Wina
from rarefy.calibration.batches import call_model
from rarefy.calibration.block_trials import BlockTrial
from rarefy.core.errors import DataError, SparsityError, UnknownNameError
from rarefy.selectors import feed_forwards, projections
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import Projection
from transformers_tiny import ids, output, tiny

SHARES = (0.25, 0.4, 0.5, 0.65)


def batches() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids(4, 40, i)} for i in range(4)]


def sparse(model: nn.Module, method: Activations, sparsity: float) -> rarefy.activations.report.ActivationReport:
    return rarefy.sparsify_activations(model, method, sparsity=sparsity, data=batches(), trial_tokens=120)


def job_of(model: nn.Module, sparsity: float) -> Job:
    return Job(model, projections(model), feed_forwards(model), sparsity, batches(), call_model, 120)


def multiplied(part: str, factor: torch.Tensor, seed: int = 0) -> nn.Module:
    """A tiny Llama with the columns of a projection multiplied."""
    model = tiny("Llama", seed)
    with torch.no_grad():
        for place in projections(model):
            if place.part == part:
                weight_of(place.module).mul_(factor)
    return model


def uneven() -> nn.Module:
    """Columns of `up` that differ by a factor of 1000."""
    factor = torch.logspace(-1.5, 1.5, 32)[torch.randperm(32, generator=torch.Generator().manual_seed(1))]
    return multiplied("up", factor)


def exhaustive(
    places: list[Projection], trial: BlockTrial, made: dict[str, Maker], sparsity: float, step: float
) -> dict[str, float]:
    """Algorithm 1 of TEAL, word for word: at every step every matrix is tried."""
    size = {p.name: weight_of(p.module).numel() for p in places}
    total, now = sum(size.values()), {p.name: 0.0 for p in places}
    most = {p.name: max(sparsity, min(MOST, made[p.name].most)) for p in places}
    while (left := sparsity - sum(now[n] * size[n] for n in now) / total) > 1e-9:
        added = {n: min(min(step, left) * total / size[n], most[n] - now[n]) for n in now}
        tried = {n: now | {n: now[n] + more} for n, more in added.items() if more > 1e-9}
        now = min(tried.values(), key=lambda shares: block_error(places, trial, made, shares))
    return now


@pytest.mark.parametrize("sparsity", [0.25, 0.65])
def test_few_trials_find_what_all_of_them_find(sparsity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(uneven(), sparsity)
    made, places = makers(job, "threshold"), [place for place in job.places if place.block == 0]
    trial, count = job.trials()[0], [0]

    def counted(self: BlockTrial) -> float:
        count[0] += 1
        return whole(self)

    whole = BlockTrial.error
    monkeypatch.setattr(BlockTrial, "error", counted)
    all_tried, many = exhaustive(places, trial, made, sparsity, 0.02), count[0]
    found, few = greedy(places, trial, made, sparsity, 0.02), count[0] - many
    monkeypatch.undo()
    wanted = block_error(places, trial, made, all_tried)
    assert block_error(places, trial, made, found) <= 1.01 * wanted and few < 0.6 * many
    uniform = {place.name: sparsity for place in places}
    assert block_error(places, trial, made, uniform) > 1.05 * wanted


@pytest.mark.parametrize("seed", range(2))
def test_the_usual_step_loses_less_than_one_that_moves_a_small_matrix_at_once(seed: int) -> None:
    """Steps of a tenth of the block move q, k, v and o from nothing to all at once."""

    def error(method: Activations) -> float:
        model = tiny("Llama", seed, hidden_size=32, intermediate_size=256, num_key_value_heads=1)
        return sum(sparse(model, method, 0.65).block_errors.values())

    coarse = error(Teal(step=0.1))

    def check(method: Activations) -> None:
        assert error(method) < 0.995 * coarse

    assert Teal().step == Wina().step == RSparse().step == STEP
    assert_beats_impostor(check, Teal(), Teal(allocation="uniform"))


@pytest.mark.parametrize("sparsity", SHARES)
@pytest.mark.parametrize("form", ["threshold", "top-k"])
def test_wina_with_greedy_shares_loses_less_than_teal_with_them(form: str, sparsity: float) -> None:
    teal = sparse(uneven(), Teal(form=form, step=0.05), sparsity)  # type: ignore[arg-type]

    def check(method: Activations) -> None:
        report = sparse(uneven(), method, sparsity)
        assert abs(report.sparsity - teal.sparsity) < 0.02
        assert all(report.block_errors[block] < 0.95 * error for block, error in teal.block_errors.items())

    real = Wina(form=form, step=0.05)  # type: ignore[arg-type]
    assert_beats_impostor(check, real, Teal(form=form, step=0.05))  # type: ignore[arg-type]
    assert_beats_impostor(check, real, Wina(form=form, allocation="uniform"))  # type: ignore[arg-type]


def test_r_sparse_spends_the_shares_that_teal_finds() -> None:
    model, twin = uneven(), uneven()
    teal = sparse(twin, Teal(step=0.05), 0.5)
    report = sparse(model, RSparse(rho=1.0, allocation="greedy", step=0.05), 0.5)
    assert {s.name: s.asked for s in report.sites} == pytest.approx({s.name: s.asked for s in teal.sites})
    assert len({s.asked for s in report.sites}) > 2 and report.added == 0
    assert torch.allclose(output(model, ids()), output(twin, ids()), atol=1e-6)


def falling() -> nn.Module:
    """Weights whose singular values fall as i ** -1.5 in random bases."""
    model, g = tiny("Llama"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for place in projections(model):
            weight = weight_of(place.module)
            left, right = (torch.linalg.qr(torch.randn(size, size, generator=g)).Q for size in weight.shape)
            size = min(weight.shape)
            weight.copy_(left[:, :size] * torch.arange(1, size + 1).float().pow(-1.5) @ right[:, :size].T)
    return model


def divergence(method: Activations, sparsity: float) -> float:
    """KL of the sparse model's next token from the dense one's, on other text."""
    model, text = falling(), ids(8, 40, 99)
    dense = output(model, text).log_softmax(-1)
    report = sparse(model, method, sparsity)
    assert report.sparsity > sparsity - 0.02
    now = output(model, text).log_softmax(-1)
    return float((dense.exp() * (dense - now)).sum(-1).mean())


@pytest.mark.parametrize("sparsity", SHARES)
def test_r_sparse_is_nearer_to_the_dense_model_than_teal_with_the_same_shares(sparsity: float) -> None:
    teal = Teal(allocation="uniform")
    far = divergence(teal, sparsity)

    def check(method: Activations) -> None:
        assert divergence(method, sparsity) < 0.9 * far

    assert_beats_impostor(check, RSparse(generations=3, population=8), teal)


def test_r_sparse_loses_less_with_greedy_shares_than_with_equal_ones() -> None:
    def check(method: Activations) -> None:
        assert sum(sparse(falling(), method, 0.5).block_errors.values()) < 0.7 * equal

    equal = sum(sparse(falling(), RSparse(rho=0.8), 0.5).block_errors.values())
    assert_beats_impostor(check, RSparse(rho=0.8, allocation="greedy", step=0.05), RSparse(rho=0.8))


def test_shares_may_be_given_and_are_refused_where_they_are_not_what_was_asked() -> None:
    first = sparse(uneven(), Teal(step=0.1), 0.5)
    shares = {site.name: site.asked for site in first.sites}
    again = sparse(uneven(), Teal(form="top-k", allocation=shares), 0.5)
    assert {site.name: site.asked for site in again.sites} == shares and len(set(shares.values())) > 1
    short = dict(list(shares.items())[1:])
    with pytest.raises(UnknownNameError, match=r"has no share for \['model\.layers\.0\.self_attn\.q_proj'\]"):
        sparse(uneven(), Teal(allocation=short), 0.5)
    with pytest.raises(SparsityError, match=r"come to 0\.5000 of the weights, sparsity is 0\.6000"):
        sparse(uneven(), Wina(allocation=shares), 0.6)
    with pytest.raises(SparsityError, match=r"allocation: 1\.5 for model"):
        sparse(uneven(), Teal(allocation=dict.fromkeys(shares, 1.5)), 0.5)


def test_the_search_leaves_out_thresholds_that_the_text_cannot_tell() -> None:
    """64 tokens tell shares up to 0.75; a place that keeps a tenth of its columns' budget would need 0.95."""
    text = [{"input_ids": ids(2, 32, 0)}]
    method = replace(RSparse(allocation="greedy", step=0.1), generations=2, population=6)
    report = rarefy.sparsify_activations(tiny("Llama"), method, sparsity=0.6, data=text, trial_tokens=64)
    assert all(site.asked <= 0.75 or site.asked == 1.0 for site in report.sites)
    assert report.sparsity == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("method", ["teal", "wina"])
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.7, 0.9])
def test_as_many_tokens_as_the_error_names_are_enough(method: str, sparsity: float) -> None:
    with pytest.raises(DataError, match=r"15 tokens .* takes (\d+);") as error:
        rarefy.sparsify_activations(tiny("Llama"), method, sparsity=sparsity, data=[ids(1, 15)], step=0.05)
    need = int(str(error.value).split("takes ")[1].split(";")[0])
    for tokens in (need, need + 1, need + need // 2):
        data = [ids(1, tokens)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = rarefy.sparsify_activations(tiny("Llama"), method, sparsity=sparsity, data=data, step=0.05)
        alike = all(site.asked == sparsity for site in report.sites if ".0." in site.name)
        said = any(".layers.0." in str(w.message) and "give more tokens" in str(w.message) for w in caught)
        assert said == (sparsity == 0.5 and tokens == need + 1) and (alike or not said)
        asked = sum(site.asked * site.size for site in report.sites) / sum(site.size for site in report.sites)
        assert asked == pytest.approx(sparsity)
