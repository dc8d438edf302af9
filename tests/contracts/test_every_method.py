"""Every one-shot method prunes every kind of model on every pattern that divides, to the exact count."""

from typing import Any

import pytest
import torch
from torch import nn

from contracts.examples import PATTERNS, make
from contracts.models import CASES
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Pattern
from rarefy.core.registry import Entry, entries
from rarefy.core.site import find_sites
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.nm import NM
from rarefy.pruning import OneShot, prune
from rarefy.pruning.resolve import resolve_allocation

FOUND = [e for e in entries("method") if isinstance(make(e), OneShot)]
EXACT = [e for e in FOUND if make(e).quantize is None]  # the others round, and what they keep may round to zero
EVERY = pytest.mark.parametrize("entry", FOUND, ids=[e.id for e in FOUND])


def undivided(model: nn.Module, pattern: Pattern) -> list[str]:
    """Names of the layers that the pattern's tile does not divide."""
    r, c = pattern.granularity
    return [s.name for s in find_sites(model)[0] if s.shape[0] // s.groups % r or s.shape[1] % c]


def torn(model: nn.Module, entry: Entry, pattern: Pattern) -> list[str]:
    """Names of further layers whose rows a rounding method cannot cut into its groups."""
    spec = make(entry).quantize
    left = [s for s in find_sites(model)[0] if s.name not in undivided(model, pattern)]
    return [s.name for s in left if spec is not None and spec.why_not(s.shape[1]) is not None]


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    out = model(**batch) if isinstance(batch, dict) else model(batch)
    if isinstance(out, torch.Tensor):
        return out.square().mean()
    return out.last_hidden_state[:, 1:, ::2].square().mean() + out.pooler_output.square().mean()


def options(entry: Entry, batches: list[Any]) -> dict[str, Any]:
    more: dict[str, Any] = {"maskllm": {"steps": 5}, "synflow": {"rounds": 4}, "gqsa": {"passes": 1, "tuning": 1}}.get(
        entry.id, {}
    )  # enough here
    needs = make(entry).solver.needs | resolve_allocation(None, make(entry)).needs
    wants_loss = any(need.wants_loss for need in needs)
    return more | ({"data": batches} if needs else {}) | ({"loss": loss} if wants_loss else {})


@EVERY
@pytest.mark.parametrize("pattern", PATTERNS[:5], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_exact_on_every_model_and_pattern(entry: Entry, pattern: Pattern, case: str) -> None:
    model, batches = CASES[case]().model, CASES[case]().batches
    ignore = undivided(model, pattern) + torn(model, entry, pattern)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    if make(entry).learner is not None and not isinstance(pattern, NM):
        with pytest.raises(SparsityError, match="learns N:M"):
            prune(model, entry.id, sparsity=0.5, pattern=pattern, ignore=ignore, **options(entry, batches))
        return
    asked = {"sparsity": 0.5, "pattern": pattern, "allocation": "uniform", "ignore": ignore}
    report = prune(model, entry.id, **asked, **options(entry, batches))
    pruned = {site.name: site for site in find_sites(model, ignore)[0]}
    assert {site.name for site in report.sites} == set(pruned)
    for told in report.sites:
        site = pruned[told.name]
        rows = site.shape[0] // site.groups
        kept = site.groups * pattern.count(rows, site.shape[1], 0.5)
        rounded = told.result.get("rounded_to_zero", 0)  # kept by the pattern, and then zero among the integers
        assert (rounded == 0) or make(entry).quantize is not None
        assert int((site.parameter != 0).sum()) == kept - rounded
        assert told.zeros == told.size - kept + rounded
        assert rounded or all(pattern.allows(part) for part in (site.read() != 0).chunk(site.groups))
    weights = {f"{name}.weight" for name in pruned}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k not in weights)
    assert loss(model, batches[0]).isfinite()


@EVERY
def test_its_own_allocation_meets_the_budget(entry: Entry) -> None:
    case = CASES["perceptron"]()
    sparsity = 0.5 if fixed_density(make(entry).pattern) else 0.6
    report = prune(case.model, entry.id, sparsity=sparsity, **options(entry, case.batches))
    rows = sum(site.shape[0] for site in report.sites)
    assert sum(site.zeros for site in report.sites) == pytest.approx(
        sparsity * sum(s.size for s in report.sites), abs=rows
    )


@EVERY
def test_the_same_call_gives_the_same_model(entry: Entry) -> None:
    states = []
    for _ in range(2):
        case = CASES["perceptron"]()
        sparsity = 0.5 if fixed_density(make(entry).pattern) else 0.6
        prune(case.model, entry.id, sparsity=sparsity, seed=5, **options(entry, case.batches))
        states.append(case.model.state_dict())
        torch.randn(3)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@EVERY
def test_missing_data_is_an_error_that_says_so(entry: Entry) -> None:
    case = CASES["perceptron"]()
    if make(entry).solver.needs:
        with pytest.raises(DataError, match=f"{entry.id}: needs calibration data; give data="):
            prune(case.model, entry.id, sparsity=0.5)
