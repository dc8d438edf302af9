"""A Hugging Face model without its weights: built from config.json, parameters on the meta device, and their names
in the weight files."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from rarefy.core.errors import FileError
from rarefy.formats.folder import read_json
from rarefy.formats.manifest import digest
from rarefy.formats.names import recognise
from rarefy.formats.shards import Shards
from rarefy.recipes.store_config import NEVER, class_of, config_of, plain_config, type_key, without
from rarefy.recipes.store_hf import room_for

_OLD_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))  # of early BERT files


@dataclass(frozen=True)
class Skeleton:
    """model: in evaluation mode, parameters on the meta device, buffers real.

    stored: {parameter: its names in the files}, several where files hold a shared parameter under each of its names.
    """

    model: nn.Module
    stored: Mapping[str, tuple[str, ...]]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def skeleton(folder: Path, shards: Shards, dtype: torch.dtype) -> Skeleton:
    """The model that config.json names, as transformers builds it, weights neither made nor read. Raises FileError."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise FileError(f"{folder}: is a Hugging Face folder; install transformers to prune it") from error
    raw = read_json(folder / "config.json")
    _refuse_quantised(folder, raw, shards)
    plain, shifted = plain_config(without(raw, NEVER), folder)
    try:
        config = config_of(plain, folder)
        model = _built(class_of(plain, config, folder), config, dtype, shards, folder)
        if shifted is not None:
            shifted.apply(model)
    except FileError:
        raise
    except Exception as error:  # transformers raises whatever a strange config leads it to
        raise FileError(f"{folder}: transformers cannot build the model ({error})") from error
    stored = _stored_names(model, shards, folder)
    _require_equal(stored, shards, folder)
    _fill_buffers(model, shards)
    return Skeleton(model.eval(), stored)


def _built(cls: Any, config: Any, dtype: torch.dtype, shards: Shards, folder: Path) -> Any:
    """The model, built on the meta device first: what is not as the files have it costs no memory and no time."""
    with room_for({name: place.shape for name, place in shards.places.items()}, folder):
        with torch.device("meta"):
            planned = cls._from_config(deepcopy(config), **{type_key(): dtype})
            planned.tie_weights()
        _stored_names(planned, shards, folder)
    with parameters_on_meta():
        model = cls._from_config(config, **{type_key(): dtype})
        model.tie_weights()
    return model


def _refuse_quantised(folder: Path, raw: Mapping[str, Any], shards: Shards) -> None:
    said = raw.get("quantization_config") or raw.get("compression_config")
    if said is not None:
        kind = said.get("quant_method") if isinstance(said, dict) else said
        raise FileError(f"{folder}: its weights are stored as {kind}; give the folder of plain weights they came from")
    if sparse := recognise(shards.places.keys()):
        raise FileError(f"{folder}: {min(sparse)!r} is stored sparse; rarefy.load the folder and use rarefy.prune")
    odd = [(name, place) for name, place in shards.places.items() if place.dtype.startswith(("F8", "F4", "F6"))]
    if odd:
        raise FileError(
            f"{folder}: {odd[0][0]!r} is stored as {odd[0][1].dtype}; convert it to bfloat16 or wider first"
        )


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Every parameter that this thread registers goes to the meta device at once: one is in memory at a time."""
    owner = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.is_meta or threading.get_ident() != owner:
            return parameter
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    handle = hooks.register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        handle.remove()


def _stored_names(model: Any, shards: Shards, folder: Path) -> dict[str, tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    shapes = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
        shapes[name] = tuple(parameter.shape)
    prefix = getattr(model, "base_model_prefix", "")
    found: dict[str, tuple[str, ...]] = {}
    for names in groups.values():
        held = tuple(dict.fromkeys(s for name in names for s in _spellings(name, prefix) if s in shards))
        if not held:
            raise FileError(
                f"{folder}: holds no tensor for parameter {names[0]!r} of {type(model).__name__}; "
                "the weights and config.json do not belong together, or are stored in another layout"
            )
        for stored in held:
            if shards.places[stored].shape != shapes[names[0]]:
                raise FileError(
                    f"{folder}: {stored!r} has shape {shards.places[stored].shape}, but config.json asks for "
                    f"{shapes[names[0]]}; the weights and config.json do not belong together"
                )
        found |= dict.fromkeys(names, held)
    return found


def _require_equal(stored: Mapping[str, tuple[str, ...]], shards: Shards, folder: Path) -> None:
    for held in dict.fromkeys(stored.values()):
        if len(held) > 1 and len({digest("", shards.read(name)) for name in held}) > 1:
            raise FileError(
                f"{folder}: {list(held)} are one parameter of the model, but hold different values; say "
                '"tie_word_embeddings": false in config.json if they are meant to be two'
            )


def _spellings(name: str, prefix: str) -> Iterator[str]:
    """A parameter's name, with and without the name of the base model before it, and as early BERT files had it."""
    for spelled in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        yield spelled
        for new, old in _OLD_NAMES:
            if spelled.endswith(new):
                yield spelled.removesuffix(new) + old


def _fill_buffers(model: Any, shards: Shards) -> None:
    """Buffers that the files hold (running statistics); what is computed from the config stays."""
    prefix = getattr(model, "base_model_prefix", "")
    kept = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers():
        held = [s for s in _spellings(name, prefix) if s in shards] if name in kept else []
        if held and shards.places[held[0]].shape == tuple(buffer.shape):
            buffer.copy_(shards.read(held[0]))
