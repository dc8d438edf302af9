import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.pruning import prune
from rarefy.scores.magnitude import Magnitude


def model_and_data() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(21)
    x = torch.randn(300, 12) @ torch.randn(12, 48) + 0.2 * torch.randn(300, 48)
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 16)), x


def half_the_error_of_its_mask_alone(method: str) -> None:
    """The mask is Wanda's: what is better than Wanda is due to the refit."""
    errors = []
    for name in (method, "wanda"):
        model, x = model_and_data()
        dense = model(x).detach()
        prune(model, name, sparsity=0.6, data=[x])
        errors.append((model(x) - dense).square().sum().item())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("impostor", ["wanda", "magnitude"])
def test_reconstruction(impostor: str) -> None:
    assert_beats_impostor(half_the_error_of_its_mask_alone, "reconstruction", impostor)


def test_any_score_may_choose_the_mask() -> None:
    model, x = model_and_data()
    plain, _ = model_and_data()
    prune(model, "reconstruction", sparsity=0.6, data=[x], ignore=["2"], score=Magnitude(), pattern="layerwise")
    prune(plain, "magnitude", sparsity=0.6, ignore=["2"])
    assert torch.equal(model[0].weight != 0, plain[0].weight != 0)


def test_the_report_tells_iterations_residual_and_error() -> None:
    model, x = model_and_data()
    report = prune(model, "reconstruction", sparsity=0.6, data=[x], iterations=500)
    for site in report.sites:
        assert 1 <= site.result["iterations"] <= 500
        assert site.result["residual"] <= 1e-4
        assert 0 < site.error < 0.5
