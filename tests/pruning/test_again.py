"""A model that is sparse already: its zeros stay, they count, and more sparsity is exact."""

import pytest
import torch

from contracts.models import perceptron
from contracts.test_every_method import loss
from rarefy.core.registry import entries
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning import prune

METHODS = [e.id for e in entries("method") if e.family == "pruning" and e.id != "maskllm"]  # N:M only


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", ["random", "magnitude"])
def test_less_than_there_is_changes_no_support_and_more_is_exact(method: str, first: str) -> None:
    case = perceptron()
    kind = {"pattern": Layerwise(), "allocation": "uniform", "data": case.batches, "loss": loss}
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
