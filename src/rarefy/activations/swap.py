"""Another activation function in every feed-forward layer; no tensor of the model changes."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.selectors import FeedForward, feed_forwards
from rarefy.selectors.attach import require_free

Make = Callable[[FeedForward], nn.Module]
SETTINGS = ("hidden_act", "activation_function", "hidden_activation")  # what configs of transformers call it
APART = "feed_forward_"
"""Before the function's name in a config whose model computes another one elsewhere (in the head of a BERT)."""
OTHERS = "other_activations"
"""The setting of such a config that names the other one."""


def swap_activations(model: nn.Module, make: Make, name: str) -> list[str]:
    """Puts `make(layer)` in the place of each feed-forward layer's activation, in place; gives their dotted names.

    name: what the model's config is told, if it has one, so that a saved model is loaded with the same function; a name
    that transformers does not know makes loading fail instead of computing something else. Modules outside of the
    feed-forward layers keep their function; where that is the old one the config is told both (`APART`, `OTHERS`).
    Raises ModelError where a class calls a function, since a function has no place of its own in a model, and where an
    activation has a selector, which would be lost with it.
    """
    layers = feed_forwards(model)
    for layer in layers:
        if not isinstance(layer.activation, nn.Module):
            raise ModelError(
                f"{layer.name}: its activation {layer.activation!r} is a function, not a module; set it to a module "
                "(nn.GELU()) in the model's class first"
            )
    require_free(f"swapping {name} in", hidden={layer.name: layer.activation for layer in layers})
    kept = _elsewhere(model, layers)
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
    if hasattr(model, "config"):
        _tell(model.config, name, kept)
    return found


def _elsewhere(model: nn.Module, layers: Sequence[FeedForward]) -> bool:
    """Whether modules outside of the feed-forward layers have the same function."""
    own = {id(layer.activation) for layer in layers}
    kinds = {type(layer.activation) for layer in layers}
    return any(type(module) in kinds and id(module) not in own for module in model.modules())


def _tell(config: Any, name: str, kept: bool) -> None:
    for setting in SETTINGS:
        if hasattr(config, setting):
            others = getattr(config, OTHERS, None) or (getattr(config, setting) if kept else name)
            setattr(config, setting, name if others == name else APART + name)
            if others != name:
                setattr(config, OTHERS, others)
            elif hasattr(config, OTHERS):
                delattr(config, OTHERS)
