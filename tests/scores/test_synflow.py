"""Conservation of flow, and the promise that follows: no layer is emptied."""

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.calibration.flow import synaptic_flow
from rarefy.core.errors import DataError
from rarefy.core.site import find_sites
from rarefy.pruning import prune


def bottleneck() -> nn.Sequential:
    torch.manual_seed(4)
    layers = [nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 4, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(4, 64, bias=False), nn.ReLU(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        model[2].weight.mul_(0.05)
    return model


def flow_is_conserved_from_layer_to_layer() -> list[float]:
    model = bottleneck()
    sites = find_sites(model)[0]
    flow = synaptic_flow(model, sites, torch.randn(7, 64))
    return [float((site.read().abs() * flow[site.name]).sum()) for site in sites]


def test_every_layer_carries_the_same_flow() -> None:
    sums = flow_is_conserved_from_layer_to_layer()
    assert sums == pytest.approx([sums[0]] * 4, rel=1e-9)


def no_layer_is_emptied_at_99_percent(method: str) -> None:
    model = bottleneck()
    prune(model, method, sparsity=0.97, allocation="global", data=[torch.randn(2, 64)])
    assert all(int((layer.weight != 0).sum()) > 0 for layer in model if isinstance(layer, nn.Linear))
    assert synaptic_flow(model, find_sites(model)[0], torch.zeros(1, 64))["0"].sum() > 0


def test_synflow_is_no_magnitude() -> None:
    assert_beats_impostor(no_layer_is_emptied_at_99_percent, "synflow", "magnitude")


def test_rounds_are_what_keeps_the_layers() -> None:
    kept = []
    for rounds in (1, 100):
        model = bottleneck()
        prune(model, "synflow", sparsity=0.97, data=[torch.randn(2, 64)], rounds=rounds)
        ones = torch.ones(1, 64)
        x = ones
        for layer in model:
            x = x @ layer.weight.abs().t() if isinstance(layer, nn.Linear) else x
        kept.append(x.sum().item())
    assert kept[1] > 2 * kept[0]


def test_only_shapes_of_the_data_count() -> None:
    masks = []
    for scale in (1.0, 1e3):
        model = bottleneck()
        prune(model, "synflow", sparsity=0.8, data=[scale * torch.randn(5, 64)], rounds=3)
        masks.append([p != 0 for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_a_layer_that_no_flow_reaches_is_named() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Spare()
    with pytest.raises(DataError, match="spare: synaptic flow does not reach"):
        synaptic_flow(model, find_sites(model)[0], torch.randn(1, 4))
