"""What a model's config cannot say of it: tensors of other shapes than it builds, and the counts that go with them."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.relufication import buildable
from rarefy.activations.swap import SETTINGS
from rarefy.formats.container import Widths
from rarefy.recipes.skeleton import parameters_on_meta
from rarefy.recipes.store_resize import COUNTS, modules_above, said_by_shape


def widths_of(model: nn.Module, stored: Mapping[str, Tensor] | None = None) -> Widths:
    """Where a Hugging Face model was cut to widths that its config does not have.

    stored: the tensors that are written, where they have other shapes than the model's state.
    Nothing is said of a class that transformers does not have itself, nor where a number that no file may set (a scale)
    was changed with the shapes: such a model is filled by `load(path, model=module)`.
    """
    built = _built(model)
    if built is None:
        return Widths()
    fresh = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    shapes = {name: tuple((stored or {}).get(name, tensor).shape) for name, tensor in model.state_dict().items()}
    resized = {name: list(shape) for name, shape in shapes.items() if fresh.get(name, shape) != shape}
    others = dict(built.named_modules())
    touched = {above for name in resized for above in modules_above(name)}
    counts: dict[str, dict[str, int]] = {}
    for name, module in model.named_modules():
        if name in others and name in touched:
            found = _differences(module, others[name])
            if any(type(value) is not int or attribute not in COUNTS for attribute, value in found.items()):
                return Widths()
            counts |= {name: found} if found else {}
    return Widths(resized, counts)


def _differences(module: nn.Module, other: nn.Module) -> dict[str, Any]:
    """{attribute: number} of the plain numbers that two modules have otherwise, without those that shapes say."""
    fresh, skipped = vars(other), said_by_shape(module)
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in (int, float)
        and type(fresh.get(name)) in (int, float)
        and value != fresh[name]
        and name not in skipped
    }


def _built(model: Any) -> nn.Module | None:
    """The model that its config builds, without weights. None where that cannot be done."""
    cls = type(model)
    if not cls.__module__.startswith("transformers."):
        return None
    try:
        config = deepcopy(model.config)
        for name, value in buildable(config.to_dict())[0].items():
            if name in SETTINGS:
                setattr(config, name, value)
        with torch.random.fork_rng(devices=[]), parameters_on_meta():
            built: nn.Module = cls(config)
    except Exception:  # transformers raises whatever a strange config leads it to
        return None
    return built
