"""What a model became: the tensors that differ from those of the model it came from, and the grids they lie on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rarefy.core.grid import Grid, attach_grid, grid_of
from rarefy.core.site import Site, is_prunable
from rarefy.formats.packed import as_integers

_STATE, _SCALE, _BITS = "state:", "scale:", "bits:"


def changes(model: nn.Module, dense: nn.Module) -> dict[str, Tensor]:
    """Tensors by which `model` differs from `dense`, a model of the same shapes; what is tied goes in once."""
    before, found, seen = dense.state_dict(), {}, set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if isinstance(tensor, Tensor) else None
        if place is not None and (not tensor.numel() or place not in seen):
            seen.add(place)
            if not torch.equal(as_integers(tensor), as_integers(before[name])):
                found[_STATE + name] = tensor
    for name, module in model.named_modules():
        if (grid := grid_of(module)) is not None:
            found |= {_SCALE + name: grid.scale, _BITS + name: torch.tensor(grid.bits)}
    return found


def put_back(model: nn.Module, changed: Mapping[str, Tensor]) -> None:
    """Makes of the dense model, in place, the one that it differed from by `changed`."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in changed.items():
            if name.startswith(_STATE):
                state[name.removeprefix(_STATE)].copy_(tensor)
    for name, module in model.named_modules():
        if is_prunable(module):
            scale, bits = changed.get(_SCALE + name), changed.get(_BITS + name)
            grid = None if scale is None or bits is None else Grid(scale.clone(), int(bits))
            attach_grid(Site(name, (module,)), grid)
