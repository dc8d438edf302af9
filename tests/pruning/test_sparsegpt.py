"""SparseGPT on whole models, beside magnitude."""

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from contracts.models import bert
from rarefy.core.errors import SolverError
from rarefy.core.evidence import Evidence, Need
from rarefy.pruning import prune
from rarefy.pruning import prune as door


def correlated_data(tokens: int = 300, n: int = 48) -> torch.Tensor:
    torch.manual_seed(11)
    return torch.randn(tokens, n // 4) @ torch.randn(n // 4, n) + 0.2 * torch.randn(tokens, n)


def perceptron() -> nn.Sequential:
    torch.manual_seed(12)
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 16))


def half_the_output_error_of_magnitude(method: str) -> None:
    x = correlated_data()
    errors = []
    for name in (method, "magnitude"):
        model = perceptron()
        dense = model(x).detach()
        prune(model, name, sparsity=0.6, data=[x[:150], x[150:]])
        errors.append((model(x) - dense).square().sum().item())
    assert errors[0] < 0.5 * errors[1]


def test_sparsegpt() -> None:
    assert_beats_impostor(half_the_output_error_of_magnitude, "sparsegpt", "magnitude")


def test_the_damping_of_each_layer_is_in_the_report() -> None:
    report = prune(perceptron(), "sparsegpt", sparsity=0.5, data=[correlated_data()], damping=0.05)
    assert [site.result["damping"] for site in report.sites] == [0.05, 0.05]
    assert "damping=0.05" in str(report)


def test_two_tokens_are_enough_to_run_and_the_report_says_the_damping() -> None:
    report = prune(perceptron(), "sparsegpt", sparsity=0.5, data=[correlated_data(tokens=2)], damping=0.0)
    assert all(0 < site.result["damping"] <= 1 for site in report.sites)
    assert report.sparsity == pytest.approx(0.5)


def test_a_layer_that_cannot_be_solved_is_named_and_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = perceptron()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    honest = Evidence.__getitem__

    def spoiled(self: Evidence, need: Need) -> torch.Tensor:
        gram = honest(self, need)
        return gram - 2 * gram.diagonal().mean() * torch.ones_like(gram) if self.site == "2" else gram

    monkeypatch.setattr(Evidence, "__getitem__", spoiled)
    with pytest.raises(SolverError, match=r"2: the Gram matrix.*more calibration data or a larger damping"):
        prune(model, "sparsegpt", sparsity=0.5, data=[correlated_data()])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_corrected_target_brings_an_encoder_nearer_to_the_dense_one() -> None:
    errors = {}
    for corrected in (False, True):
        case = bert(3)
        dense = [case.model(**b).last_hidden_state.detach() for b in case.batches]
        door(case.model, "sparsegpt", sparsity=0.6, data=case.batches, ignore=["pooler"], corrected=corrected)
        pairs = zip(dense, case.batches, strict=True)
        errors[corrected] = sum((case.model(**b).last_hidden_state - d).square().mean().item() for d, b in pairs)
    assert errors[True] < errors[False]
