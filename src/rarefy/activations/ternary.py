"""Weights of three values in training, as BitNet b1.58 has them."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rarefy.core.shapes import Weight


class Ternary(nn.Module):
    """scale * clip(round(w / scale), -1, 1) with scale = mean |w|; the gradient passes straight through.

    Source: Ma et al. 2024 (BitNet b1.58), arXiv:2402.17764, eq. 1 to 3.
    """

    def forward(self, weight: Weight) -> Weight:
        with torch.no_grad():
            scale = weight.abs().mean().clamp_min(1e-5)
            rounded = (weight / scale).round().clamp(-1, 1) * scale
        return rounded + (weight - weight.detach())  # the value is rounded to the bit, the gradient is the weight's


def make_ternary(layer: nn.Module) -> None:
    """The layer computes with ternary weights from now on; a dense weight behind them is what is trained."""
    parametrize.register_parametrization(layer, "weight", Ternary())


def settle_ternary(model: nn.Module) -> int:
    """Writes the ternary weights into the layers, which are plain again; gives how many there were."""
    found = ternary_layers(model)
    for module in found.values():
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return len(found)


def ternary_layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer} of those that `make_ternary` changed and that are not settled."""
    named = model.named_modules()
    return {name: m for name, m in named if parametrize.is_parametrized(m, "weight") and _is_ternary(m)}


def _is_ternary(module: nn.Module) -> bool:
    chain: Tensor | nn.Module = module.parametrizations.weight  # type: ignore[union-attr]
    return any(isinstance(part, Ternary) for part in chain.children())  # type: ignore[union-attr]
