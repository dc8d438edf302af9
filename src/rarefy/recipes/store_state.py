"""Between a module and named tensors: tied names once on the way out, all or nothing on the way in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import FileError, ModelError
from rarefy.formats.container import Contents


def collect(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, {tied name: name in tensors}) of a model's state. Views of one storage that differ are copied."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in model.state_dict().items():
        _require_storable(name, tensor)
        place = tensor.untyped_storage().data_ptr()
        key = (place, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensors[name] = tensor.detach().clone() if place in storages else tensor.detach()
        storages.add(place)
    if not tensors:
        raise ModelError(f"save: {type(model).__name__} has no parameters and no buffers; nothing was written")
    return tensors, aliases


def _require_storable(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ModelError(
            f"save: state {name!r} is a {type(tensor).__name__}, which only pickling could store; make it a buffer"
        )
    if tensor.is_meta:
        raise ModelError(f"save: {name!r} is on the meta device and has no values; load the weights first")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ModelError(f"save: {name!r} has layout {tensor.layout}, {tensor.dtype}; convert it with to_dense() first")


def dense(contents: Contents) -> dict[str, Tensor]:
    """Every name of the file with its dense tensor; tied names share one."""
    held = {name: t if isinstance(t, Tensor) else t.to_dense() for name, t in contents.tensors.items()}
    return held | {alias: held[name] for alias, name in contents.aliases.items()}


def shapes(contents: Contents) -> dict[str, tuple[int, ...]]:
    """Every name of the file with its dense shape; expands nothing."""
    held = {name: tuple(t.shape) for name, t in contents.tensors.items()}
    return held | {alias: held[name] for alias, name in contents.aliases.items()}


def fill(model: nn.Module, contents: Contents, path: Path) -> None:
    """Puts the tensors of a file into a module that has exactly those; parameters stay the same objects.

    A parameter takes the file's type and keeps its device. Tied parameters may be stored under one name or several
    equal ones. Nothing is written before everything fits.
    """
    state = model.state_dict(keep_vars=True)
    groups = _groups(state)
    _require_match(state, groups, shapes(contents), path)
    held = dense(contents)
    for names in groups.values():
        given = [held[name] for name in names if name in held]
        if any(other is not given[0] and not torch.equal(other, given[0]) for other in given[1:]):
            raise FileError(f"load: {names} are one parameter of the model, but {path} holds different values for them")
    with torch.no_grad():
        for names in groups.values():
            _put(model, state, names, next(held[name] for name in names if name in held))


def _groups(state: Mapping[str, Tensor]) -> dict[int, list[str]]:
    """{id of a parameter or buffer: all its names}."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        _require_storable_target(name, tensor)
        groups.setdefault(id(tensor), []).append(name)
    return groups


def _require_storable_target(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ModelError(f"load: state {name!r} of the model is a {type(tensor).__name__}, not a tensor")


def _require_match(
    state: Mapping[str, Tensor],
    groups: Mapping[int, list[str]],
    found: Mapping[str, tuple[int, ...]],
    path: Path,
) -> None:
    problems = [f"missing {names[0]}" for names in groups.values() if not any(n in found for n in names)]
    problems += [f"unexpected {name}" for name in found if name not in state]
    problems += [
        f"{name} is {found[name]} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in state.items()
        if name in found and found[name] != tuple(tensor.shape)
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise FileError(f"load: {path} does not belong to this model: {shown}; give the model that was saved")


def _put(model: nn.Module, state: Mapping[str, Tensor], names: list[str], value: Tensor) -> None:
    target = state[names[0]]
    if not target.is_meta:
        target.data = value.to(target.device)
        return
    fresh = nn.Parameter(value, target.requires_grad) if isinstance(target, nn.Parameter) else value
    for name in names:
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        held: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
        held[leaf] = fresh
