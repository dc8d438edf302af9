"""What each training-free method claims, checked so that the plain thing beside it fails."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.activations.bases import descending, reading
from rarefy.activations.cats import Cats
from rarefy.activations.chess import Chess
from rarefy.activations.evolve import evolve
from rarefy.activations.job import Activations, Job
from rarefy.activations.lazy_neuron import TopKReLU
from rarefy.activations.r_sparse import RSparse
from rarefy.activations.rank_aware import RankAware, factors
from rarefy.activations.teal import Teal
from rarefy.activations.wina import Wina
from rarefy.calibration.taps import Covariance
from rarefy.core.errors import ShapeError, SparsityError
from rarefy.selectors import (
    TopK,
    detach,
    feed_forwards,
    hidden_selector,
    input_selector,
    projections,
    select_inputs,
)
from transformers_tiny import ids, output, tiny


def batches(count: int = 4) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids(4, 40, i)} for i in range(count)]


def sparse(model: nn.Module, method: Activations, sparsity: float = 0.5) -> rarefy.activations.report.ActivationReport:
    return rarefy.sparsify_activations(model, method, sparsity=sparsity, data=batches(), trial_tokens=120)


def scaled(part: str, factor: torch.Tensor, axis: int, seed: int = 0) -> nn.Module:
    """A tiny Llama with the rows (axis 0) or columns (1) of a projection multiplied."""
    model = tiny("Llama", seed)
    with torch.no_grad():
        for place in projections(model):
            if place.part == part:
                shape = (-1, 1) if axis == 0 else (1, -1)
                place.module.weight.mul_(factor.view(shape))  # type: ignore[operator, union-attr]
    return model


def planted(method: Activations) -> dict[int, float]:
    """Block errors on a model whose up projection matters far more than its down projection."""
    model = scaled("up", torch.full((64,), 30.0), 0)
    return sparse(model, method, 0.5).block_errors


def test_greedy_shares_lose_less_than_uniform_ones() -> None:
    uniform = planted(Teal(allocation="uniform"))

    def check(method: Activations) -> None:
        assert sum(planted(method).values()) < 0.97 * sum(uniform.values())

    assert_beats_impostor(check, Teal(step=0.1), Teal(allocation="uniform"))


def test_greedy_meets_the_block_s_share_exactly() -> None:
    model = tiny("Llama")
    report = sparse(model, Teal(step=0.2), 0.5)
    for number in (0, 1):
        sites = [site for site in report.sites if f".{number}." in site.name]
        share = sum(site.asked * site.size for site in sites) / sum(site.size for site in sites)
        assert share == pytest.approx(0.5, abs=1e-6) and len({site.asked for site in sites}) > 1


def test_silu_models_have_no_zeros_of_their_own_and_teal_makes_them() -> None:
    model, seen = tiny("Llama"), []
    layer = feed_forwards(model)[0]
    hook = layer.down.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    output(model, ids())
    sparse(model, Teal(allocation="uniform"), 0.5)
    output(model, ids())
    hook.remove()
    assert not (seen[0] == 0).any() and 0.4 < float((seen[-1] == 0).float().mean()) < 0.6


def test_wina_picks_the_best_subset_where_columns_are_orthogonal() -> None:
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=g)).Q
    weight = basis * torch.logspace(-1, 1, 12)[torch.randperm(12, generator=g)]
    tokens = torch.randn(40, 12, generator=g)
    subsets = list(itertools.combinations(range(12), 4))
    masks = torch.zeros(len(subsets), 12)
    for row, subset in zip(masks, subsets, strict=True):
        row[list(subset)] = 1.0

    def check(selector: TopK) -> None:
        for x in tokens:
            error = (weight @ (x * (1 - masks)).T).norm(dim=0)
            best = float(error.min())
            chosen = float((weight @ (x * ~selector.mask(x[None])[0])).norm())
            assert chosen == pytest.approx(best, rel=1e-5)

    assert_beats_impostor(check, TopK(4, weight.norm(dim=0)), TopK(4))


def test_wina_loses_less_than_the_sizes_alone_where_columns_differ() -> None:
    def check(method: Activations) -> None:
        factor = torch.logspace(-1.5, 1.5, 32)[torch.randperm(32, generator=torch.Generator().manual_seed(1))]
        errors = sparse(scaled("up", factor, 1), method, 0.6).block_errors
        plain = sparse(scaled("up", factor, 1), Teal(form="top-k", allocation="uniform"), 0.6).block_errors
        assert all(errors[block] < 0.95 * plain[block] for block in errors)

    assert_beats_impostor(check, Wina(allocation="uniform"), Teal(form="top-k", allocation="uniform"))


def test_the_reading_basis_makes_columns_orthogonal() -> None:
    weight, gain = torch.randn(6, 10), torch.rand(10) + 0.5
    basis = reading(weight, gain)
    turned = (weight.double() * gain) @ basis
    gram = turned.T @ turned
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-9)
    assert torch.allclose(basis.T @ basis, torch.eye(10, dtype=torch.float64), atol=1e-9)


def test_rotated_top_k_wins_where_the_inputs_have_a_spectrum() -> None:
    """Covariance 1/i in a random basis: at most 0.6 of the squared error of plain top-k; nothing to win for noise."""
    g = torch.Generator().manual_seed(0)
    hidden_basis = torch.linalg.qr(torch.randn(64, 64, generator=g)).Q
    decaying = torch.randn(2000, 64, generator=g) * torch.arange(1, 65).float().rsqrt() @ hidden_basis.T
    noise = torch.randn(2000, 64, generator=g)

    def ratio(x: torch.Tensor, basis: torch.Tensor) -> float:
        turned, top = x @ basis, TopK(32)
        lost = (turned * ~top.mask(turned)).square().sum()
        return float(lost / (x * ~top.mask(x)).square().sum())

    def principal(x: torch.Tensor) -> torch.Tensor:
        seen = Covariance()
        seen.add(x)
        return descending(seen).float()

    def check(basis: torch.Tensor) -> None:
        assert ratio(decaying, basis) < 0.6

    assert_beats_impostor(check, principal(decaying), torch.eye(64))
    assert 0.9 < ratio(noise, principal(noise)) < 1.1


def chess_errors(method: Activations, spread: float) -> dict[int, float]:
    factor = torch.logspace(-spread / 2, spread / 2, 64)[torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    return sparse(scaled("up", factor, 0), method, 0.5).block_errors


def test_chess_loses_less_than_cats_where_the_up_projection_differs() -> None:
    cats = chess_errors(Cats(), 2.0)

    def check(method: Activations) -> None:
        errors = chess_errors(method, 2.0)
        assert all(errors[block] < 0.7 * cats[block] for block in errors)

    assert_beats_impostor(check, Chess(attention=()), Cats())


def test_chess_with_equal_means_is_cats() -> None:
    model, twin = tiny("Llama"), tiny("Llama")
    sparse(model, Cats())
    job_of(twin, Chess(attention=()), torch.full((64,), 3.0))
    for a, b in zip(feed_forwards(model), feed_forwards(twin), strict=True):
        one, other, x = hidden_selector(a.activation), hidden_selector(b.activation), torch.randn(200, 64) * 0.05
        assert one is not None and other is not None
        assert (one.mask(x) != other.mask(x)).float().mean() < 0.01
    assert torch.allclose(output(model, ids()), output(twin, ids()), atol=1e-3)


def job_of(model: nn.Module, method: Chess, mean: torch.Tensor) -> None:
    """Attaches CHESS's hidden selectors with these means in the place of measured ones."""
    from rarefy.activations.hidden import attach_hidden, hidden_thresholds
    from rarefy.calibration.batches import call_model

    job = Job(model, projections(model), feed_forwards(model), 0.5, batches(), call_model)
    made = hidden_thresholds(job, {layer.name: mean for layer in job.layers})
    attach_hidden(job.layers, made, 0.5)


def decaying(rows: int, columns: int, power: float) -> torch.Tensor:
    """A weight with singular values i ** -power in random bases."""
    g = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(rows, rows, generator=g)).Q
    v = torch.linalg.qr(torch.randn(columns, columns, generator=g)).Q
    size = min(rows, columns)
    return u[:, :size] * torch.arange(1, size + 1).float().pow(-power) @ v[:, :size].T


def with_spectrum(power: float) -> nn.Module:
    model = tiny("Llama")
    with torch.no_grad():
        for place in projections(model):
            weight: Any = place.module.weight
            weight.copy_(decaying(*weight.shape, power))
    return model


def test_full_rank_gives_the_dense_layer_whatever_is_dropped() -> None:
    layer, x = nn.Linear(12, 8), torch.randn(5, 12)
    made = RankAware.of(layer, *factors(layer.weight.detach(), 8))
    select_inputs(made, TopK(0))
    assert torch.allclose(made(x), layer(x), atol=1e-5)
    made.cut(2)
    selector = input_selector(made)
    assert isinstance(selector, TopK) and made.left.shape == (8, 2) and not torch.allclose(made(x), layer(x), atol=1e-3)
    left, right = factors(layer.weight.detach(), 2)
    select_other = TopK(5).mask(x)
    detach(made)
    select_inputs(made, TopK(5))
    wanted = (x * select_other) @ layer.weight.T + (x * ~select_other) @ right.T @ left.T + layer.bias
    assert torch.allclose(made(x), wanted, atol=1e-5)
    with pytest.raises(ShapeError, match="rank 3 is outside"):
        made.cut(3)


def test_rho_1_is_thresholding_alone() -> None:
    model, twin = tiny("Llama"), tiny("Llama")
    report = sparse(model, RSparse(rho=1.0))
    sparse(twin, Teal(allocation="uniform"))
    assert report.added == 0 and torch.allclose(output(model, ids()), output(twin, ids()), atol=1e-6)
    with pytest.raises(SparsityError, match=r"rho 1\.5"):
        sparse(tiny("Llama"), RSparse(rho=1.5))


def test_columns_and_rank_together_beat_either_alone_where_the_spectrum_decays() -> None:
    def error(method: Activations) -> float:
        return sum(sparse(with_spectrum(0.7), method, 0.5).block_errors.values())

    alone = min(error(RSparse(rho=1.0)), error(RSparse(rho=0.0)))

    def check(method: Activations) -> None:
        assert error(method) < 0.9 * alone

    assert_beats_impostor(check, RSparse(rho=0.8), Teal(allocation="uniform"))


def test_the_search_spends_on_rank_only_where_there_is_a_spectrum() -> None:
    def rank(power: float) -> int:
        model = with_spectrum(power)
        sparse(model, RSparse(generations=1, population=3, settle=0))
        return sum(module.right.shape[0] for module in model.modules() if isinstance(module, RankAware))

    assert rank(0.0) <= 0.2 * rank(2.0)


def test_the_search_finds_the_best_and_is_repeatable() -> None:
    def loss(genes: tuple[float, ...]) -> float:
        return sum((gene - 0.1 * i) ** 2 for i, gene in enumerate(genes))

    start = [(0.5,) * 5, (1.0,) * 5]
    found = evolve(loss, start, generations=30, population=20, seed=1)
    assert loss(found) < 0.1 * min(map(loss, start)) and all(0.0 <= gene <= 1.0 for gene in found)
    assert found == evolve(loss, start, generations=30, population=20, seed=1)
    assert evolve(loss, start, generations=0, population=4) == (0.5,) * 5


def test_gradients_flow_through_the_kept_neurons_only() -> None:
    model = tiny("OPT").train()
    rarefy.sparsify_activations(model, "lazy-neuron-topk", sparsity=0.0, data=batches(1), k=4)
    layer = feed_forwards(model)[0]
    model(input_ids=ids(1, 1)).logits.square().sum().backward()
    grad = layer.up.weight.grad  # type: ignore[union-attr]
    assert isinstance(grad, torch.Tensor) and 1 <= int((grad.abs().sum(1) > 0).sum()) <= 4


def test_top_k_relu_keeps_at_most_k_positive_entries() -> None:
    x = torch.randn(6, 3, 20, requires_grad=True)
    y = TopKReLU(5)(x)
    assert ((y != 0).sum(-1) <= 5).all() and torch.equal(y[y != 0], x[y != 0])
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).float())
    assert (TopKReLU(5)(-torch.ones(2, 20)) == 0).all()
    with pytest.raises(SparsityError, match=r"k=100, but model\.decoder\.layers\.0 has 64 neurons"):
        rarefy.sparsify_activations(tiny("OPT"), "lazy-neuron-topk", sparsity=0.5, data=batches(1), k=100)
