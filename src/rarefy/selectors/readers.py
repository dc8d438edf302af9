"""Which linear layers are meant: by their names, or all those of a transformer of some part."""

from collections.abc import Collection, Sequence

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.selectors.matrix import is_linear
from rarefy.selectors.places import projections


def readers(
    model: nn.Module,
    names: Sequence[str] | None = None,
    parts: Collection[str] | None = None,
    *,
    linear: bool = True,
) -> dict[str, nn.Module]:
    """{name: layer} of the `names`; without names, of the projections of a transformer of those `parts` (None: all).

    linear: whether the named ones have to be linear layers. Raises ModelError if a name is not there or is none, and
    where no transformer is recognised.
    """
    if names is None:
        return {p.name: p.module for p in projections(model) if parts is None or p.part in parts}
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or (linear and not is_linear(modules[name])):
            what = f"is a {type(modules[name]).__name__}" if name in modules else "is not there"
            raise ModelError(f"layers: {name!r} {what}; name linear layers as model.named_modules() does")
    if not names:
        raise ModelError("layers: is empty; name at least one linear layer, or leave it out for a transformer's own")
    return {name: modules[name] for name in names}
