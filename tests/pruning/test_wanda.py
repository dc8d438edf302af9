"""The catalogued check of Wanda on a whole model, beside magnitude, which has to fail it. THE TEST TO COPY."""

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.patterns.unstructured import Rowwise
from rarefy.pruning import prune


def model_and_data() -> tuple[nn.Sequential, list[torch.Tensor]]:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    x = torch.randn(256, 64)
    x[:, [3, 17, 40]] *= 20.0
    return model, [x]


def mask_unchanged_by_rescaling(method: str) -> None:
    """Inputs eight times larger with columns eight times smaller compute the same, so the same is kept."""
    masks = []
    for factor in (1.0, 8.0):
        model, (x,) = model_and_data()
        scale = torch.where(torch.arange(64) % 2 == 0, factor, 1.0)
        with torch.no_grad():
            model[0].weight.div_(scale)
        prune(model, method, sparsity=0.5, pattern=Rowwise(), data=[x * scale])
        masks.append(model[0].weight != 0)
    assert torch.equal(*masks)


def half_the_error_with_outlier_features(method: str) -> None:
    errors = []
    for name in (method, "magnitude"):
        model, (x,) = model_and_data()
        dense = model[0](x)
        prune(model, name, sparsity=0.5, pattern=Rowwise(), data=[x])
        errors.append((model[0](x) - dense).square().sum().item())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("check", [mask_unchanged_by_rescaling, half_the_error_with_outlier_features])
def test_wanda(check) -> None:
    assert_beats_impostor(check, "wanda", "magnitude")


def test_mask_equals_a_sort_of_each_row_and_kept_weights_do_not_move() -> None:
    model, (x,) = model_and_data()
    before = model[0].weight.detach().clone()
    prune(model, "wanda", sparsity=0.5, data=[x], ignore=["2"])
    score = before.abs() * x.norm(dim=0)
    for row, kept in zip(score, model[0].weight != 0, strict=True):
        assert set(kept.nonzero().flatten().tolist()) == set(row.sort(descending=True).indices[:32].tolist())
    assert torch.equal(model[0].weight, torch.where(model[0].weight != 0, before, 0.0))


def test_two_of_four_is_exact() -> None:
    model, data = model_and_data()
    prune(model, "wanda", pattern="2:4", data=data)
    assert ((model[0].weight != 0).reshape(-1, 4).sum(1) == 2).all()
