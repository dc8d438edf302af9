"""Linear layers that a method replaces by layers of its own kind, and the way back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.core.site import matches


@dataclass(frozen=True)
class Place:
    """Where a module hangs in the model."""

    name: str
    parent: nn.Module
    attribute: str

    def put(self, module: nn.Module) -> None:
        self.parent._modules[self.attribute] = module


def places(model: nn.Module, kind: type[nn.Module], where: str, ignore: Sequence[str] = ()) -> list[Place]:
    """Every module of exactly this kind (not of a kind derived from it), in definition order.

    The model itself cannot be replaced, nor a layer whose parameters another module has too: both are errors that say
    so. An entry of `ignore` that matches nothing is an error, and so is a model without such a layer.
    """
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    if type(model) is kind:
        raise ModelError(f"{where}: the model is a {kind.__name__} itself; put it into an nn.Sequential")
    found = [
        Place(f"{path}.{attribute}" if path else attribute, parent, attribute)
        for path, parent in model.named_modules()
        for attribute, child in parent._modules.items()
        if type(child) is kind
    ]
    for pattern in patterns:
        if not any(matches(place.name, [pattern]) for place in found):
            raise ModelError(f"{where}: ignore {pattern!r} matches none of {[place.name for place in found][:8]}...")
    chosen = [place for place in found if not matches(place.name, patterns)]
    if not chosen:
        raise ModelError(f"{where}: the model has no {kind.__name__} to replace")
    for place in chosen:
        _require_unshared(model, place, where)
    return chosen


def _require_unshared(model: nn.Module, place: Place, where: str) -> None:
    mine = {id(p) for p in place.parent._modules[place.attribute].parameters(recurse=False)}  # type: ignore[union-attr]
    holders = [name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in mine]
    if len(holders) > len(mine):
        raise ModelError(f"{where}: {place.name} shares its parameters ({holders}); leave it alone with ignore=")


def restore(model: nn.Module, kind: type[nn.Module], back: Callable[[nn.Module], nn.Module]) -> list[str]:
    """Replaces every module of the kind by what `back` makes of it; gives the names."""
    names = []
    for path, parent in list(model.named_modules()):
        for attribute, child in list(parent._modules.items()):
            if isinstance(child, kind):
                parent._modules[attribute] = back(child)
                names.append(f"{path}.{attribute}" if path else attribute)
    return names
