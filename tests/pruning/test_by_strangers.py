"""What users come with who have read one page."""

import pytest
import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError, ModelError
from rarefy.pruning import prune

DATA = [(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def test_a_layer_that_is_emptied_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1))
    with pytest.warns(UserWarning, match="no weight is left of 1, whose outputs are constant"):
        prune(model, "wanda", sparsity=0.95, data=[torch.randn(2, 3, 8, 8)])


def test_layers_of_other_kinds_are_listed() -> None:
    parts = {"conv": nn.Conv1d(4, 4, 3), "lstm": nn.LSTM(4, 4), "up": nn.ConvTranspose2d(4, 4, 3), "l": nn.Linear(8, 8)}
    report = prune(nn.ModuleDict(parts), "magnitude", sparsity=0.5)
    assert set(report.skipped) == {"conv", "lstm", "up"} and [row.name for row in report.sites] == ["l"]
    assert "LSTM" in report.skipped["lstm"] and "sparse_training" in report.skipped["lstm"]


def test_synflow_sees_what_the_loss_makes_of_a_batch() -> None:
    by_loss, plain = net(), net()
    prune(by_loss, "synflow", sparsity=0.5, data=DATA, loss=loss)
    prune(plain, "synflow", sparsity=0.5, data=[DATA[0][0]])
    assert all(torch.equal(a, b) for a, b in zip(by_loss.parameters(), plain.parameters(), strict=True))


def test_synflow_blames_the_batch() -> None:
    with pytest.raises(DataError, match=r"data\[0\]: Sequential does not take this batch"):
        prune(net(), "synflow", sparsity=0.5, data=[DATA[0]])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ["snip", "sparsegpt"])
def test_the_callers_modes_change_nothing(mode: type, method: str) -> None:
    here, there = net(), net()
    data, given = ([DATA[0][0]], None) if method == "sparsegpt" else (DATA, loss)
    prune(here, method, sparsity=0.5, data=data, loss=given)
    with mode():
        prune(there, method, sparsity=0.5, data=data, loss=given)
    assert all(torch.equal(a, b) for a, b in zip(here.parameters(), there.parameters(), strict=True))


def test_a_model_made_in_inference_mode_is_pruned_there() -> None:
    want = net()
    prune(want, "magnitude", sparsity=0.5)
    with torch.inference_mode():
        made = net()
        prune(made, "magnitude", sparsity=0.5)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), want.parameters(), strict=True))


def test_weights_that_cannot_be_written() -> None:
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(8, 8))
    expanded = nn.Sequential(nn.Linear(8, 8))
    expanded[0].weight = nn.Parameter(torch.randn(1, 8).expand(8, 8))
    for model, why in ((made, "inference mode"), (expanded, "one place in memory")):
        with pytest.raises(ModelError, match=f"^0: its weight cannot be written: .*{why}"):
            prune(model, "magnitude", sparsity=0.5)


def test_a_loss_of_many_numbers_is_not_printed() -> None:
    with pytest.raises(DataError, match=r"loss gave a tensor \(8, 4\), but it has to be one finite number"):
        prune(net(), "snip", sparsity=0.5, data=DATA, loss=lambda m, b: m(b[0]))


def test_data_without_values_or_far_too_large() -> None:
    with pytest.raises(DataError, match=r"data\[0\] .*meta device"):
        prune(net(), "wanda", sparsity=0.5, data=[torch.empty(4, 16, device="meta")])
    with pytest.raises(DataError, match=r"not finite; .*scale them down"):
        prune(net(), "sparsegpt", sparsity=0.5, data=[torch.full((4, 16), 1e25)])
