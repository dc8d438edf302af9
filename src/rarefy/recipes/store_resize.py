"""Modules of other widths than a config says: resized before they are filled, to the shapes that the file holds."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import FileError
from rarefy.formats.container import Contents
from rarefy.recipes.store_state import shapes

COUNTS = frozenset(
    {
        *("num_heads", "num_attention_heads", "n_heads", "n_head", "num_key_value_heads", "num_kv_heads"),
        *("num_key_value_groups", "num_k_heads", "num_v_heads", "num_groups", "n_groups", "groups", "num_experts"),
        *("head_dim", "head_size", "attention_head_size", "v_head_dim", "head_k_dim", "head_v_dim", "qk_head_dim"),
        *("all_head_size", "inner_dim", "key_value_proj_dim", "split_size", "key_dim", "value_dim", "kv_dim"),
        *("embed_dim", "dim", "hidden_size", "hidden_dim", "intermediate_size", "intermediate_dim", "ffn_dim"),
        *("in_channels", "out_channels", "num_channels", "channels", "in_features", "out_features"),
        *("num_labels", "vocab_size", "padding_idx"),
    }
)
"""Attributes of modules that a file may set: how many there are of something, as the forward pass reads it."""


def resize(model: nn.Module, contents: Contents, place: Path, find: Callable[[str], str | None] = str) -> None:
    """Gives every tensor that the file says to be of another shape that shape, and its module the numbers to it.

    find: the name in this model of a name in the file, None to leave it out. New tensors are empty, lie where the old
    ones did (the meta device), and have the shapes of tensors that the file holds. Raises FileError.
    """
    widths = contents.widths
    touched: dict[str, nn.Module] = {}
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for stored, shape in widths.resized.items():
        name = find(stored)
        if name is not None:
            touched[name.rpartition(".")[0]] = _give_shape(model, name, tuple(shape), made, place)
    largest: dict[str, int] = {}
    for stored, held in shapes(contents).items():
        for above in modules_above(find(stored) or ""):
            largest[above] = max(largest.get(above, 0), *held, 0)
    resized = {above for name in touched for above in (name, *modules_above(name))}
    for stored, said in widths.counts.items():
        name = find(stored)
        if name is not None:
            _give_counts(model, name, said, largest.get(name, 0) if name in resized else None, place)
    for name, module in touched.items():
        _give_said(module, name, place)


def said_by_shape(module: nn.Module) -> dict[str, Any]:
    """The attributes of a layer of torch, or of a Conv1D of transformers, that follow from the shape of its tensors."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        mean = getattr(module, "running_mean", None)
        return {"num_features": len(mean)} if isinstance(mean, Tensor) else {}
    shape = tuple(weight.shape)
    if isinstance(module, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return {"out_channels": shape[0], "in_channels": shape[1] * module.groups}
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": shape[0]}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[0]}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": shape}
    return {"nx": shape[0], "nf": shape[1]} if _is_transposed(module) else {}


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def modules_above(name: str) -> Iterator[str]:
    """The names of the modules that a tensor or module lies in, at any depth, the model's own, "", at last."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _give_shape(
    model: nn.Module, name: str, shape: tuple[int, ...], made: dict[int, tuple[Tensor, Tensor]], place: Path
) -> nn.Module:
    parent, _, leaf = name.rpartition(".")
    module = _module(model, parent, place)
    old = module._parameters.get(leaf, module._buffers.get(leaf))
    if old is None or old.dim() != len(shape):
        has = "no such tensor" if old is None else f"one of {tuple(old.shape)}"
        raise FileError(
            f"load: {place}: the file gives {name!r} the shape {shape}, the model that config.json names has {has}; "
            "the weights and config.json do not belong together"
        )
    if id(old) not in made or made[id(old)][1].shape != shape:  # what is shared stays shared
        fresh = torch.empty(shape, dtype=old.dtype, device=old.device)
        made[id(old)] = (old, nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh)
    new = made[id(old)][1]
    if isinstance(new, nn.Parameter):
        module.register_parameter(leaf, new)
    else:
        module.register_buffer(leaf, new, persistent=leaf not in module._non_persistent_buffers_set)
    return module


def _give_counts(model: nn.Module, name: str, said: Mapping[str, int], most: int | None, place: Path) -> None:
    """most: the largest size of any tensor in the module, None if nothing in it is resized."""
    module = _module(model, name, place)
    for attribute, value in said.items():
        why = None
        if attribute not in COUNTS or type(vars(module).get(attribute)) is not int:
            why = "no count of this module"
        elif most is None:
            why = "a count of a module of which nothing is resized"
        elif value > most or (value == 0 and attribute in ("groups", "num_groups")):
            why = f"{value}, where its tensors have at most {most} of anything"
        if why:
            raise FileError(f"load: {place}: the manifest's {name}.{attribute} is {why}; get the file again")
        setattr(module, attribute, value)


def _give_said(module: nn.Module, name: str, place: Path) -> None:
    said = said_by_shape(module)
    groups = getattr(module, "groups", getattr(module, "num_groups", 1))
    channels = [n for key, n in said.items() if key in ("in_channels", "out_channels", "num_channels")]
    if any(n % groups for n in channels):
        raise FileError(f"load: {place}: {groups} groups of {name!r} do not divide its {channels} channels")
    for attribute, value in said.items():
        setattr(module, attribute, value)


def _module(model: nn.Module, name: str, place: Path) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise FileError(
            f"load: {place}: the manifest resizes {name!r}, which the model that config.json names does not have; "
            "the weights and config.json do not belong together"
        ) from error
