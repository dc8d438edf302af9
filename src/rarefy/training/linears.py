"""Linear layers that a method replaces by layers of its own kind, and the way back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.site import is_conv1d, matches


@dataclass(frozen=True)
class Place:
    """Where a module hangs in the model."""

    name: str
    parent: nn.Module
    attribute: str

    @property
    def module(self) -> nn.Module:
        module = self.parent._modules[self.attribute]
        assert module is not None
        return module

    def put(self, module: nn.Module) -> None:
        self.parent._modules[self.attribute] = module


def is_linear(module: nn.Module | None) -> bool:
    """Exactly an `nn.Linear` (not a kind derived from it), or GPT-2's Conv1D, which stores its weight as (in, out)."""
    return module is not None and (type(module) is nn.Linear or is_conv1d(module))


def places(model: nn.Module, where: str, ignore: Sequence[str] = ()) -> list[Place]:
    """Every linear layer (`is_linear`), in definition order.

    The model itself cannot be replaced, nor a layer whose parameters another module has too: both are errors that say
    so. An entry of `ignore` that matches nothing is an error, and so is a model without such a layer.
    """
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    if is_linear(model):
        raise ModelError(f"{where}: the model is a {type(model).__name__} itself; put it into an nn.Sequential")
    found = [
        Place(f"{path}.{attribute}" if path else attribute, parent, attribute)
        for path, parent in model.named_modules()
        for attribute, child in parent._modules.items()
        if is_linear(child)
    ]
    for pattern in patterns:
        if not any(matches(place.name, [pattern]) for place in found):
            raise ModelError(f"{where}: ignore {pattern!r} matches none of {[place.name for place in found][:8]}...")
    chosen = [place for place in found if not matches(place.name, patterns)]
    if not chosen:
        why = f"all {len(found)} linear layers are ignored" if found else "it has none"
        raise ModelError(
            f"{where}: {type(model).__name__}: no linear layer to replace: {why}; nothing was changed; give a model "
            "with an nn.Linear or a Conv1D of transformers (kinds derived from them are left alone)"
        )
    for place in chosen:
        require_unshared(model, place.name, place.module, where)
    return chosen


def require_unshared(model: nn.Module, name: str, module: nn.Module, where: str) -> None:
    """Refuses a layer whose parameters another module has too: the other would go on with the old ones."""
    mine = {id(p) for p in module.parameters(recurse=False)}
    holders = [name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in mine]
    if len(holders) > len(mine):
        raise ModelError(
            f"{where}: {name} shares its parameters ({', '.join(holders)}), and would be another layer than theirs; "
            f"leave it alone with ignore=[{name!r}]"
        )


def require_rank(where: str, name: str, weight: Tensor, rank: int) -> None:
    """Refuses a rank that the weight `(out, in)` of the layer cannot have."""
    if type(rank) is not int or not 1 <= rank <= min(weight.shape):
        raise SparsityError(
            f"{where}: rank {rank} for {name}, whose weight is {tuple(weight.shape)}; give 1 to {min(weight.shape)}, "
            f"or leave the layer alone with ignore=[{name!r}]"
        )


def ordinary(kind: type[nn.Module], weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
    """A layer of the kind (`nn.Linear`, or GPT-2's Conv1D) with the weight `(out, in)` and the bias."""
    out, inputs = weight.shape
    if kind is nn.Linear:
        made: nn.Module = nn.Linear(inputs, out, bias=False, dtype=weight.dtype)
    else:
        made = kind(out, inputs)
    made.weight = nn.Parameter(weight if kind is nn.Linear else weight.t().contiguous())
    made.register_parameter("bias", bias)
    return made


def restore(model: nn.Module, kind: type[nn.Module], back: Callable[[nn.Module], nn.Module]) -> list[str]:
    """Replaces every module of the kind by what `back` makes of it; gives the names."""
    names = []
    for path, parent in list(model.named_modules()):
        for attribute, child in list(parent._modules.items()):
            if isinstance(child, kind):
                parent._modules[attribute] = back(child)
                names.append(f"{path}.{attribute}" if path else attribute)
    return names
