"""Function-preserving rescalings and hard layers, for every method that looks at inputs or at the loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contracts.examples import evidence_of
from contracts.test_every_method import EXACT
from rarefy.core.protocols import Score
from rarefy.pruning import prune
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.snip import Snip

METHODS = [entry.id for entry in EXACT]
MORE = {"maskllm": {"steps": 5}, "synflow": {"rounds": 4}}  # enough here
SOLVERS = ["awp-pgd", "alps", "dsnot", "sparsegpt", "obs", "reconstruction"]

HARD = ["few tokens", "dead inputs", "constant", "outliers", "bfloat16", "one layer", "shared"]


def kept(score: Score, weight: Tensor, x: Tensor, gradient: Tensor | None = None) -> Tensor:
    from rarefy.core.evidence import Evidence, Need
    from rarefy.core.topk import keep_top

    found = evidence_of(weight, x)
    values = dict(found.collected) | ({Need.GRADIENT: gradient} if gradient is not None else {})
    return keep_top(score(weight, Evidence("fc", values, found.tokens)), weight.shape[1] // 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(-3, 3).filter(bool))
def test_scaling_an_input_and_its_column_inversely(seed: int, power: int) -> None:
    """What is computed stays: so do Wanda's and SNIP's masks (gradients scale with the input). Magnitude's does not."""
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(16, 12, generator=generator), torch.randn(50, 12, generator=generator)
    scale = torch.where(torch.rand(12, generator=generator) < 0.5, 2.0**power, 1.0)
    scale[0], scale[1] = 2.0**power, 1.0
    gradient = torch.randn(16, 12, generator=generator)
    for score in (InputNorm(), Snip()):
        assert torch.equal(kept(score, weight, x, gradient), kept(score, weight / scale, x * scale, gradient * scale))
    assert not torch.equal(kept(Magnitude(), weight, x), kept(Magnitude(), weight / scale, x * scale))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.25, 4.0]))
def test_scaling_an_output_changes_no_mask_by_rows(seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(16, 12, generator=generator), torch.randn(50, 12, generator=generator)
    scale = torch.where(torch.rand(16, 1, generator=generator) < 0.5, factor, 1.0)
    for score in (InputNorm(), Magnitude()):
        assert torch.equal(kept(score, weight, x), kept(score, weight * scale, x))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 1.0).square().mean()


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", HARD)
def test_hard_layers_are_pruned_exactly_and_stay_finite(method: str, kind: str) -> None:
    model, x = net(), torch.randn(40, 16)
    if kind == "few tokens":
        x = x[:2]
    elif kind == "dead inputs":
        x[:, 3:9] = 0.0
    elif kind == "constant":
        x = torch.ones(40, 16)
    elif kind == "outliers":
        x[:, 5] *= 1e5
    elif kind == "bfloat16":
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    elif kind == "one layer":
        model = nn.Sequential(nn.Linear(16, 8), nn.Tanh())
    elif kind == "shared":
        shared = nn.Linear(16, 16)
        model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(16, 4))
    given = {"data": [x], "loss": loss, "allocation": "uniform", **MORE.get(method, {})}
    report = prune(model, method, sparsity=0.5, **given)
    assert report.sparsity == pytest.approx(0.5, abs=1e-6)
    assert all(p.isfinite().all() for p in model.parameters())
    if kind == "shared":
        assert len(report.sites) == 2
        assert model[0].weight is model[2].weight


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("kind", ["few tokens", "dead inputs", "constant"])
def test_a_singular_gram_leaves_them_at_least_as_good_as_magnitude(method: str, kind: str) -> None:
    errors = []
    for tried in (method, "magnitude"):
        torch.manual_seed(8)
        model, x = nn.Sequential(nn.Linear(32, 24)), torch.randn(60, 32)
        if kind == "few tokens":
            x = x[:9]
        elif kind == "dead inputs":
            x[:, ::2] = 0.0
        else:
            x = torch.ones(60, 32)
        dense = model(x).detach()
        prune(model, tried, sparsity=0.5, pattern="rowwise", data=[x])
        errors.append(float((model(x).detach() - dense).square().sum()))
    assert errors[0] <= errors[1] * (1 + 1e-6)
