"""N:M on a width that M does not divide: asked about, padded or skipped, never cut."""

import pytest
import torch
from torch import nn

from contracts.models import convnet
from contracts.test_every_method import EXACT
from rarefy.core.errors import ModelError, RarefyError, ShapeError, UnknownNameError
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.pruning import prune


def odd() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4))


def mean_square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def test_the_error_asks_to_pad_or_skip() -> None:
    with pytest.raises(ShapeError, match=r'^0: 2:4 needs multiples.*undivided="skip" or undivided="pad"'):
        prune(odd(), "magnitude", pattern="2:4")


def test_skip_leaves_the_layer_and_says_so() -> None:
    model = odd()
    report = prune(model, "magnitude", pattern="2:4", undivided="skip")
    assert [site.name for site in report.sites] == ["2"]
    assert set(report.skipped) == {"0", "4"}
    assert "2:4 needs multiples of 1 x 4" in report.skipped["0"]
    assert (model[0].weight != 0).all()


NOT_PADDED = {"obs": "the exact surgeon", "spectrum-preserving-pruning": "sampling", "maskllm": "learns N:M"}


@pytest.mark.parametrize("method", [entry.id for entry in EXACT])
def test_pad_keeps_two_of_the_last_group(method: str) -> None:
    model, x = odd(), torch.randn(64, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    call = {"pattern": "2:4", "undivided": "pad", "data": [x], "loss": mean_square}
    if method in NOT_PADDED:
        with pytest.raises(RarefyError, match=NOT_PADDED[method]):
            prune(model, method, **call)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return
    report = prune(model, method, **call)
    assert len(report.sites) == 3
    assert NM(2, 4).allows(model[2].weight != 0)
    for layer, kept in ((model[0], 6), (model[4], 4)):
        mask = layer.weight != 0
        assert PaddedNM(2, 4).allows(mask)
        assert (mask.sum(1) == kept).all()


def test_a_model_of_convolutions_may_be_skipped_in_part() -> None:
    case = convnet()
    report = prune(case.model, "magnitude", pattern="4:8", undivided="skip")
    assert {site.name for site in report.sites} == {"grouped", "head"}


def test_nothing_left_or_nothing_to_pad_is_an_error() -> None:
    with pytest.raises(ModelError, match="divides none of the 3 layers"):
        prune(odd(), "magnitude", sparsity=0.5, pattern="block:3x5", undivided="skip")
    with pytest.raises(ShapeError, match='"pad" is for N:M'):
        prune(odd(), "magnitude", sparsity=0.5, pattern="block:4x1", undivided="pad")
    with pytest.raises(UnknownNameError, match="undivided: 'padd'"):
        prune(odd(), "magnitude", pattern="2:4", undivided="padd")
