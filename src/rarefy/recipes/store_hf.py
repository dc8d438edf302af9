"""The Hugging Face model that is built from a folder, by transformers alone."""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from rarefy.core.errors import FileError
from rarefy.formats.container import Contents
from rarefy.formats.folder import read_json
from rarefy.formats.packed import as_integers
from rarefy.recipes.store_config import NEVER, class_of, config_of, plain_config, type_key, without
from rarefy.recipes.store_resize import resize
from rarefy.recipes.store_split import split, split_modules
from rarefy.recipes.store_state import dense, shapes

_TABLES = 2**24
"""Bytes of buffers (positions, causal masks) that a model of any size may have besides: no file holds them."""


def build(folder: Path, contents: Contents) -> nn.Module:
    """The model of a folder's config, its tensors put in place by transformers, in evaluation mode.

    The class comes from transformers' own tables; no remote code, no import by a name in a file, no random
    initialisation. Every tensor must find its place and its shape.
    """
    try:
        import transformers
    except ImportError as error:
        raise FileError(f"load: {folder} is a Hugging Face model; install transformers to load it") from error
    raw = without(read_json(folder / "config.json"), NEVER)
    plain, shifted = plain_config(raw, folder)
    state = dense(contents)
    quiet = transformers.logging
    shown = quiet.is_progress_bar_enabled()
    try:
        quiet.disable_progress_bar()
        held = shapes(contents)
        with room_for(held, folder, 32 if split_modules(held) else 8):
            config = config_of(plain, folder)
            cls = class_of(plain, config, folder)
            model, info = _resizing(cls, contents, folder).from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, **_as_type(state)
            )
    except FileError:
        raise
    except Exception as error:  # transformers raises whatever a strange config leads it to
        raise FileError(f"load: {folder}: transformers cannot build the model ({error})") from error
    finally:
        if shown:
            quiet.enable_progress_bar()
    model.__class__ = cls
    _require_all_placed(model, state, info, folder)
    _finish(model, folder, raw)
    if shifted is not None:
        shifted.apply(model)  # after its config was checked and its weights are in place
    return model


def _resizing(cls: Any, contents: Contents, folder: Path) -> Any:
    """A class that transformers can load in the place of `cls`: its models have the widths and the split layers that
    the file says."""
    held = shapes(contents)
    if not (contents.widths.resized or contents.widths.counts or split_modules(held)):
        return cls

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        split(self, held, folder)
        resize(self, contents, folder)

    same = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**same, "__init__": init})


def _as_type(state: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    return {type_key(): next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)}


@contextmanager
def room_for(sizes: Mapping[str, tuple[int, ...]], folder: Path, times: int = 8) -> Iterator[None]:
    """Refuses a config that asks for far more than the file holds, before it costs time or memory.

    sizes: of the tensors in the file; times: what may be registered against them: each parameter is when it is built
    and when it is put in place, a tied one at both its names, and of layers that were cut or split the config asks for
    more. None of it takes memory; buffers do.
    """
    held = sum(math.prod(shape) for shape in sizes.values())
    most_tensors, most_entries, most_bytes = 4 * len(sizes) + 1000, times * held + 2**16, 16 * held + _TABLES
    owner, tensors, entries, size = threading.get_ident(), 0, 0, 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal tensors, entries, size
        if tensor is None or threading.get_ident() != owner:
            return
        tensors += 1
        if isinstance(tensor, nn.Parameter):
            entries += tensor.numel()
        else:
            size += tensor.nbytes
        if tensors > most_tensors or entries > most_entries or size > most_bytes:
            raise FileError(f"load: {folder}: config.json asks for a far larger model than the file holds")

    handles = [hooks.register_module_parameter_registration_hook(count)]
    handles.append(hooks.register_module_buffer_registration_hook(count))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_all_placed(model: Any, state: Mapping[str, Tensor], info: Mapping[str, Any], folder: Path) -> None:
    problems = [f"missing {name}" for name in sorted(info.get("missing_keys", ()))]
    problems += [f"unexpected {name}" for name in sorted(info.get("unexpected_keys", ()))]
    placed = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if name in placed and not _same(placed[name], tensor):
            problems.append(f"{name} did not arrive as stored")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise FileError(f"load: {folder}: the weights and config.json do not belong together: {shown}")


def _same(placed: Tensor, stored: Tensor) -> bool:
    """Whether a tensor arrived bit for bit. One of another type is put right, because a model's types may be mixed."""
    if placed.shape != stored.shape:
        return False
    if placed.dtype != stored.dtype:
        placed.data = stored
    if placed.data_ptr() == stored.data_ptr() and placed.stride() == stored.stride():
        return True
    return torch.equal(as_integers(placed.detach()), as_integers(stored))


def _finish(model: Any, folder: Path, raw: Mapping[str, Any]) -> None:
    model.config._name_or_path = str(folder)
    if (folder / "generation_config.json").exists() and model.can_generate():
        from transformers import GenerationConfig

        said = without(read_json(folder / "generation_config.json"), frozenset({"_from_model_config"}))
        try:
            model.generation_config = GenerationConfig.from_dict(said)
        except Exception as error:  # as above
            why = f"transformers cannot read generation_config.json ({error})"
            raise FileError(f"load: {folder}: {why}; mend it or remove it") from error
    model.eval()
