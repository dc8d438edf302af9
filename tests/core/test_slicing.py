"""Layers made smaller: what is kept, in which order, and what is refused."""

import pytest
import torch
from torch import nn

from rarefy.core.errors import ModelError
from rarefy.core.slicing import slice_inputs, slice_outputs, weight_rows


class Conv1D(nn.Module):
    """A linear layer that holds its weight as (in, out), as GPT-2's does."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 4), lambda: Conv1D(4, 5)])
def test_outputs_and_inputs_are_kept_in_the_order_given(make) -> None:
    layer, x = make(), torch.randn(3, 5)
    wide, rows = layer(x).detach(), weight_rows(layer).clone()
    slice_outputs(layer, torch.tensor([3, 0]))
    assert torch.allclose(layer(x), wide[:, [3, 0]], atol=1e-6)
    bias = layer.bias.detach().clone()
    slice_inputs(layer, torch.tensor([4, 1, 2]))
    assert torch.equal(weight_rows(layer), rows[[3, 0]][:, [4, 1, 2]])
    assert torch.allclose(layer(x[:, [4, 1, 2]]), x[:, [4, 1, 2]] @ rows[[3, 0]][:, [4, 1, 2]].T + bias, atol=1e-6)
    said = (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else (layer.nf, layer.nx)
    assert said == (2, 3)


def test_what_is_trained_stays_so_and_old_tensors_are_untouched() -> None:
    layer = nn.Linear(4, 3)
    layer.weight.requires_grad_(False)
    layer.bias.requires_grad_(False)
    weight, before = layer.weight, layer.weight.clone()
    slice_outputs(layer, torch.tensor([1]))
    assert not layer.weight.requires_grad and not layer.bias.requires_grad
    layer.weight.add_(1.0)
    assert torch.equal(weight, before)
    other = nn.Linear(4, 3, bias=False)
    slice_outputs(other, torch.tensor([2]))
    assert other.bias is None and other.weight.requires_grad


def test_other_modules_are_refused() -> None:
    for module in (nn.Conv2d(2, 2, 1), nn.ReLU(), nn.LayerNorm(3)):
        with pytest.raises(ModelError, match="is no linear layer"):
            slice_inputs(module, torch.tensor([0]))
