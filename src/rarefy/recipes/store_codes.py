"""Weights that lie on a grid, out to a file as integers and back with the grid that they lie on."""

from collections.abc import Collection, Iterator

from torch import nn

from rarefy.core.grid import Grid, attach_grid, codes_of
from rarefy.core.site import Site, is_prunable
from rarefy.formats.codes import Codes
from rarefy.formats.container import Contents


def codes_by_name(model: nn.Module, names: Collection[str]) -> dict[str, Codes]:
    """The integers of the tensors `names` of a model's state that still lie on the grid of their layer."""
    found = {}
    for name, site in _sites(model):
        codes = codes_of(site.module) if name in names else None
        if codes is not None:
            shape, turned = tuple(site.parameter.shape), site.transposed
            if getattr(site.module, "transposed", False):  # of a `RankAware`, whose class has it the other way round
                shape, turned = shape[::-1], True
            found[name] = Codes(shape, codes, turned, site.parameter.dtype)
    return found


def attach_grids(model: nn.Module, contents: Contents) -> None:
    """Gives each layer the grid that its weight had in the file; all others lose what they had."""
    held = {name: contents.tensors.get(contents.aliases.get(name, name)) for name, _ in _sites(model)}
    for name, site in _sites(model):
        stored = held[name]
        grid = Grid(stored.quantized.scale, stored.quantized.bits) if isinstance(stored, Codes) else None
        attach_grid(site, grid)


def _sites(model: nn.Module) -> Iterator[tuple[str, Site]]:
    """(name of the weight in the model's state, the layer) of every layer that could be pruned."""
    for name, module in model.named_modules(remove_duplicate=False):
        if is_prunable(module) and isinstance(module._parameters.get("weight"), nn.Parameter):
            yield f"{name}.weight" if name else "weight", Site(name, (module,))
