"""Another activation function in every feed-forward layer; no tensor of the model changes."""

from collections.abc import Callable

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.selectors import FeedForward, feed_forwards

Make = Callable[[FeedForward], nn.Module]
SETTINGS = ("hidden_act", "activation_function", "hidden_activation")  # what configs of transformers call it


def swap_activations(model: nn.Module, make: Make, name: str) -> list[str]:
    """Puts `make(layer)` in the place of each feed-forward layer's activation, in place; gives their dotted names.

    name: what the model's config is told, if it has one, so that a saved model is loaded with the same function; a name
    that transformers does not know makes loading fail instead of computing something else.
    Raises ModelError where a class calls a function, since a function has no place of its own in a model.
    """
    layers = feed_forwards(model)
    for layer in layers:
        if not isinstance(layer.activation, nn.Module):
            raise ModelError(
                f"{layer.name}: its activation {layer.activation!r} is a function, not a module; set it to a module "
                "(nn.GELU()) in the model's class first"
            )
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(path)
    found = []
    for old in {id(layer.activation): layer for layer in layers}.values():  # layers may share one
        new = make(old)
        for path in places[id(old.activation)]:
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new)
            found.append(path)
    for setting in SETTINGS:
        if hasattr(getattr(model, "config", None), setting):
            setattr(model.config, setting, name)
    return found
