"""Another activation function in every feed-forward layer; no tensor of the model changes."""

from collections.abc import Callable

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.selectors import FeedForward, feed_forwards

Make = Callable[[FeedForward], nn.Module]


def swap_activations(model: nn.Module, make: Make) -> list[str]:
    """Puts `make(layer)` in the place of each feed-forward layer's activation, in place; gives their dotted names.

    Raises ModelError where a class calls a function, since a function has no place of its own in a model.
    """
    places = {id(m): name for name, m in model.named_modules(remove_duplicate=False)}
    found = []
    for layer in feed_forwards(model):
        if not isinstance(layer.activation, nn.Module):
            raise ModelError(
                f"{layer.name}: its activation {layer.activation!r} is a function, not a module; set it to a module "
                "(nn.GELU()) in the model's class first"
            )
        name = places[id(layer.activation)]
        model.get_submodule(name.rpartition(".")[0]).__setattr__(name.rpartition(".")[2], make(layer))
        found.append(name)
    return found
