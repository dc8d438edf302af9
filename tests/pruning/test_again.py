"""A model that is sparse already: its zeros stay, they count, and more sparsity is exact."""

from typing import Any

import pytest
import torch
from torch import nn

from contracts.models import Case, perceptron
from contracts.test_every_method import EXACT, loss
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.pruning import prune

EVERY = [entry.id for entry in EXACT]
METHODS = [name for name in EVERY if name != "maskllm"]  # N:M only
FEW: dict[str, dict[str, Any]] = {"maskllm": {"steps": 5}, "synflow": {"rounds": 4}}  # enough here
FITTING = (NM(2, 4), Rowwise(), PaddedNM(2, 4))  # whatever was zero before, at most so many are kept
BROKEN = (Block(4, 1), FanIn())  # blocks with holes in them, rows of different lengths


def scattered(sparsity: float = 0.3) -> tuple[Case, dict[str, Any]]:
    """A perceptron in which some weights are zero, wherever it happens, and its supports by layer."""
    case = perceptron()
    prune(case.model, "random", sparsity=sparsity, pattern=Layerwise())
    return case, supports(case.model)


def supports(model: nn.Module) -> dict[str, Any]:
    return {name: value != 0 for name, value in model.state_dict().items() if value.dim() == 2}


def again(case: Case, method: str, pattern: Pattern, **options: Any) -> Any:
    sparsity = None if fixed_density(pattern) is not None else 0.5
    given = {"data": case.batches, "loss": loss, "allocation": "uniform", **FEW.get(method, {}), **options}
    return prune(case.model, method, sparsity=sparsity, pattern=pattern, **given)


def accepts(method: str, pattern: Pattern) -> bool:
    """Whether the method prunes a dense model to the pattern."""
    try:
        again(perceptron(), method, pattern)
    except (SparsityError, ArithmeticError):
        return False
    return True


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("pattern", FITTING, ids=str)
def test_a_mask_is_kept_under_every_pattern(method: str, pattern: Pattern) -> None:
    if not accepts(method, pattern):
        assert method in {"maskllm", "obs", "spectrum-preserving-pruning"}, "it says which patterns it cannot do"
        return
    case, before = scattered()
    report = again(case, method, pattern, zeros="fit")
    for site in report.sites:
        kept = supports(case.model)[f"{site.name}.weight"]
        assert not (kept & ~before[f"{site.name}.weight"]).any()
        assert pattern.allows(kept)
        assert 0 < int(kept.sum()) <= pattern.count(*site.shape, 0.5)
        assert site.already == int((~before[f"{site.name}.weight"]).sum())
        assert "holes" not in site.result


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", BROKEN, ids=str)
def test_zeros_that_break_a_pattern_are_told_or_refused(method: str, pattern: Pattern) -> None:
    if not accepts(method, pattern):
        return
    case, before = scattered(0.65)
    state = {name: value.clone() for name, value in case.model.state_dict().items()}
    with pytest.raises(SparsityError, match=r"^\d: has zeros already that do not fit .*zeros='keep'"):
        again(case, method, pattern, zeros="fit")
    assert all(torch.equal(value, state[name]) for name, value in case.model.state_dict().items())
    report = again(case, method, pattern)
    assert all("zeros from before" in site.result["holes"] for site in report.sites)
    assert all(not (kept & ~before[name]).any() for name, kept in supports(case.model).items())
    assert all(site.size - site.zeros <= pattern.count(*site.shape, 0.5) for site in report.sites)


def test_another_word_for_zeros_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="zeros: 'kep' is not registered; did you mean 'keep'"):
        prune(perceptron().model, "magnitude", sparsity=0.5, zeros="kep")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", ["random", "magnitude"])
def test_less_than_there_is_changes_no_support_and_more_is_exact(method: str, first: str) -> None:
    case = perceptron()
    kind = {"pattern": Layerwise(), "allocation": "uniform", "data": case.batches, "loss": loss, **FEW.get(method, {})}
    prune(case.model, first, sparsity=0.8, pattern=Layerwise())
    before = {k: v != 0 for k, v in case.model.state_dict().items() if v.dim() == 2}

    looser = prune(case.model, method, sparsity=0.7, **kind)
    assert looser.sparsity == pytest.approx(0.8, abs=1e-3)
    assert all(site.already == site.zeros for site in looser.sites)
    assert all(torch.equal(case.model.state_dict()[k] != 0, kept) for k, kept in before.items())

    tighter = prune(case.model, method, sparsity=0.9, **kind)
    assert all(site.zeros == site.size - Layerwise().count(*site.shape, 1 - 0.9) for site in tighter.sites)
    assert not any(bool(((case.model.state_dict()[k] != 0) & ~kept).any()) for k, kept in before.items())


def test_the_report_counts_what_was_there() -> None:
    model = perceptron().model
    with torch.no_grad():
        model[0].weight[:4] = 0.0
    report = prune(model, "magnitude", sparsity=0.5)
    assert [site.already for site in report.sites] == [4 * 16, 0, 0]
