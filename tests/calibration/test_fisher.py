"""Gradients of single samples, the Fisher diagonal and the Hessian's diagonal beside what autograd gives one by one."""

from typing import Any

import pytest
import torch
from torch import nn

from contracts.models import bert, convnet
from rarefy.calibration import collect_whole, samples
from rarefy.calibration.fisher import fisher_diagonal, per_sample_gradients
from rarefy.calibration.hessian_diagonal import hessian_diagonal
from rarefy.calibration.samples import one_sample, sample_count
from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.site import find_sites


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    out = model(**batch) if isinstance(batch, dict) else model(batch)
    return (out if isinstance(out, torch.Tensor) else out.last_hidden_state).pow(2).mean()


class Looking(nn.Module):
    """Looks at values, which `torch.func` does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) if float(x.abs().sum()) > 0 else x


def by_hand(model: nn.Module, batches: list[Any]) -> dict[str, torch.Tensor]:
    sites = find_sites(model)[0]
    found: dict[str, list[torch.Tensor]] = {site.name: [] for site in sites}
    for batch in batches:
        for i in range(sample_count(batch, 0)):
            grads = torch.autograd.grad(
                loss(model, one_sample(batch, i)), [s.parameter for s in sites], allow_unused=True
            )
            for site, g in zip(sites, grads, strict=True):
                found[site.name].append(torch.zeros(site.shape) if g is None else site.as_matrix(g))
    return {name: torch.stack(grads, dim=2) for name, grads in found.items()}


CASES = {
    "convolutions, grouped too": lambda: (convnet().model.eval(), convnet().batches),
    "a model that looks at values": lambda: (Looking(), [torch.randn(5, 4), torch.randn(2, 4)]),
    "an encoder with padding": lambda: (bert(1).model, bert(1).batches[:1]),
}


@pytest.mark.parametrize("case", CASES)
def test_single_samples(case: str) -> None:
    model, batches = CASES[case]()
    ignore = ["pooler"] if "encoder" in case else []
    sites = find_sites(model, ignore)[0]
    wanted = by_hand(model, batches)
    found = per_sample_gradients(model, sites, batches, loss)
    for site in sites:
        torch.testing.assert_close(found[site.name], wanted[site.name], rtol=1e-4, atol=1e-6)
        assert not found[site.name].requires_grad
    squares = fisher_diagonal(model, sites, batches, loss)
    for site in sites:
        torch.testing.assert_close(squares[site.name], wanted[site.name].square().mean(2), rtol=1e-4, atol=1e-8)


def test_gradients_come_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(4, 3), [torch.randn(7, 4)]
    sites = find_sites(model)[0]
    whole = per_sample_gradients(model, sites, x, loss)
    monkeypatch.setattr("rarefy.calibration.samples._CHUNK_BYTES", 100)
    some = per_sample_gradients(model, sites, x, loss)
    torch.testing.assert_close(some[sites[0].name], whole[sites[0].name])


@pytest.mark.parametrize(("width", "mapped"), [(1, True), (4, False)])
def test_samples_that_are_small_batches(monkeypatch: pytest.MonkeyPatch, width: int, mapped: bool) -> None:
    """Groups of images along a second axis give the mean gradient of each; convolutions take them one by one."""
    model, x = (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)),
        torch.randn(5, width, 2, 4, 4),
    )
    sites, calls = find_sites(model)[0], []
    of_groups = lambda m, b: loss(m, b.flatten(0, 1))  # noqa: E731
    original = samples._mapped_gradients
    monkeypatch.setattr(samples, "_mapped_gradients", lambda *given: calls.append(1) or original(*given))
    found = per_sample_gradients(model, sites, [x], of_groups)
    for k in range(5):
        grads = torch.autograd.grad(loss(model, x[k]), [site.parameter for site in sites])
        for site, g in zip(sites, grads, strict=True):
            torch.testing.assert_close(found[site.name][:, :, k], site.as_matrix(g), rtol=1e-4, atol=1e-6)
    assert bool(calls) == mapped


def test_the_mean_over_samples_is_the_gradient_of_the_mean_loss() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(9, 4)
    sites = find_sites(model)[0]
    found = collect_whole(model, sites, [x], loss, frozenset({Need.PER_SAMPLE_GRADIENT, Need.GRADIENT}))
    for site in sites:
        known = found[site.name]
        torch.testing.assert_close(known[Need.PER_SAMPLE_GRADIENT].mean(2), known[Need.GRADIENT])


def test_the_hessians_diagonal_on_average() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), [torch.randn(6, 3), torch.randn(6, 3)]
    sites = find_sites(model)[0]
    first, second = model[0].weight, model[2].weight

    def of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        weights = {"0.weight": a, "2.weight": b}
        return torch.stack([torch.func.functional_call(model, weights, (batch,)).pow(2).mean() for batch in x]).mean()

    exact = torch.func.hessian(of, argnums=(0, 1))(first.detach(), second.detach())
    found = hessian_diagonal(model, sites, x, loss, seed=1, probes=3000)
    for site, block in zip(sites, (exact[0][0], exact[1][1]), strict=True):
        n = site.parameter.numel()
        wanted = block.reshape(n, n).diagonal().reshape(site.shape)
        assert (found[site.name] - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ((torch.randn(4, 4), torch.randn(3)), r"data\[0\]: gradients of single samples.*\[3, 4\]"),
        (torch.full((2, 4), 1e38), "0: the gradient of a single sample holds NaN or infinity|Linear: the gradient"),
    ],
)
def test_batches_that_have_no_samples(batch: Any, why: str) -> None:
    model = nn.Linear(4, 3)

    def of_first(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0] if isinstance(batch, tuple) else batch).pow(2).mean()

    with pytest.raises(DataError, match=why):
        per_sample_gradients(model, find_sites(model)[0], [batch], of_first)
