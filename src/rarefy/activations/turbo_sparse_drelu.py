"""dReLU: both halves of a gated feed-forward layer are rectified, so about three quarters of it are zero."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.activations.swap import swap_activations
from rarefy.core.errors import ModelError
from rarefy.core.registry import method
from rarefy.selectors import feed_forwards, select_hidden, select_inputs
from rarefy.selectors.attach import require_free
from rarefy.selectors.positive import Positive
from rarefy.selectors.threshold import Threshold


def drelu(gate: Tensor, up: Tensor) -> Tensor:
    """relu(gate) * relu(up), of one shape."""
    return torch.relu(gate) * torch.relu(up)


@method("turbo-sparse-drelu", source="Song et al. 2024, arXiv:2406.05955, section 3, eq. 4", protocols=("selector",))
@dataclass(frozen=True)
class DReLU:
    """h = relu(x W_gate) * relu(x W_up) in every gated feed-forward layer of a model. Train on after `apply`.

    relu(g) * relu(u) = relu(relu(g) * u), values and gradients alike: so the activation becomes a ReLU, the input of
    the down projection gets the selector `Positive`, and no module or tensor changes its name. A selector behind the
    activation leaves out what is 0 there, so that a compiled model computes no row of up for it.
    """

    def apply(self, model: nn.Module) -> list[str]:
        """Changes the model in place; gives the names of the layers. ModelError if a layer has no gate."""
        layers = feed_forwards(model)
        for layer in layers:
            if layer.gate is None:
                raise ModelError(f"turbo-sparse-drelu: {layer.name} has no gate; use relufication for plain layers")
        require_free("turbo-sparse-drelu", inputs={f"{layer.name}'s down projection": layer.down for layer in layers})
        swap_activations(model, lambda layer: nn.ReLU(), "relu")
        for activation in {id(layer.activation): layer.activation for layer in feed_forwards(model)}.values():
            assert isinstance(activation, nn.Module)  # swap_activations has put one there
            select_hidden(activation, Threshold(torch.zeros(())))  # one each: they are stored with the model
        for layer in layers:
            select_inputs(layer.down, Positive())
        return [layer.name for layer in layers]
