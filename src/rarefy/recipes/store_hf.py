"""Hugging Face models: the config that is written, and the model that is built from it by transformers alone."""

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from rarefy.activations.relufication import Relufication, without_shift
from rarefy.core.errors import FileError, SparsityError
from rarefy.formats.atomic import write_text
from rarefy.formats.container import Contents, Stored
from rarefy.formats.folder import read_json
from rarefy.formats.packed import as_integers
from rarefy.recipes.store_resize import resize
from rarefy.recipes.store_split import split, split_modules
from rarefy.recipes.store_state import dense, shapes

NEVER = frozenset(
    {
        *("auto_map", "custom_pipelines"),  # name code to run
        *("quantization_config", "compression_config"),  # the tensors say how they are stored
        *("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "_experts_implementation"),
        "_attn_implementation_autoset",  # transformers 4.50: true keeps it from choosing, and leaves the slow kind
        *("_name_or_path", "name_or_path"),  # a path of the machine that saved
    }
)


_MOST = 100_000
"""Labels or layers that a config may ask for: transformers makes a list of them before there is any model."""
_TABLES = 2**24
"""Bytes of buffers (positions, causal masks) that a model of any size may have besides: no file holds them."""
_COUNTED = ("label", "layer", "depth", "block", "stage")  # in the names of such counts
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def is_hugging_face(model: nn.Module) -> bool:
    return hasattr(model, "config") and hasattr(model, "save_pretrained") and hasattr(model.config, "to_json_string")


def write_config(model: nn.Module, folder: Path, stored: Sequence[Stored], *, whole: str | None = None) -> list[str]:
    """config.json with the class and type of the model, generation_config.json if it generates; their names.

    whole: the name of a format where the weights mean nothing to another loader even if all are stored dense.
    """
    config: Any = model.config
    plain = without(json.loads(config.to_json_string()), NEVER)
    plain["architectures"] = [type(model).__name__]
    plain[type_key()] = next((t.dtype for t in stored if t.dtype in _FLOATS), "float32")
    if said := sparsity_block(stored, whole):
        plain["quantization_config"] = said
    written = {"config.json": plain}
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        written["generation_config.json"] = json.loads(generation.to_json_string())
    for name, content in written.items():
        write_text(folder / name, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return list(written)


def sparsity_block(stored: Sequence[Stored], whole: str | None = None) -> dict[str, Any] | None:
    """What makes compressed-tensors up to 0.14 read the folder, and every other loader refuse it.

    Without it a loader that knows nothing of sparse tensors would leave the pruned layers at random values and only
    warn. rarefy itself looks at the tensors and ignores this block. None if nothing is stored sparse. Integers have a
    format that only rarefy reads, and are named as such, and so is `whole`.
    """
    sparse = [t for t in stored if t.encoding != "dense"]
    if not sparse and whole is None:
        return None
    zeros, size = (sum(t.zeros for t in sparse), sum(math.prod(t.shape) for t in sparse))
    plain = "sparse-bitmask" if all(t.encoding == "sparse-bitmask" for t in sparse) else "rarefy-codes"
    return compression_block(whole or plain, [t.prefix for t in sparse], zeros / max(1, size))


def compression_block(layout: str, targets: Sequence[str], sparsity: float) -> dict[str, Any]:
    """The `quantization_config` that names a layout. targets: names of modules."""
    return {
        "quant_method": "compressed-tensors",
        "version": "0.14.0.1",
        "sparsity_config": {
            "format": layout,
            "targets": list(targets),
            "ignore": [],
            "global_sparsity": sparsity,
            "sparsity_structure": "2:4" if layout == "sparse-24-bitmask" else "unstructured",
            "registry_requires_subclass": False,
        },
    }


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


def plain_config(raw: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], Relufication | None]:
    """A config that transformers can build, and what is to be applied to the model then."""
    try:
        return without_shift(raw)
    except SparsityError as error:
        raise FileError(f"load: {folder / 'config.json'}: {error}") from error


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


def config_of(raw: dict[str, Any], folder: Path) -> Any:
    from transformers import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise FileError(
            f"load: {folder}: model_type {kind!r} is not one that the installed transformers knows; "
            "upgrade transformers, or build the module and give it as load(path, model=module)"
        )
    _require_small(raw, folder)
    try:
        return CONFIG_MAPPING[kind].from_dict(raw)
    except Exception as error:  # transformers raises whatever a strange config leads it to
        raise FileError(f"load: {folder}: transformers cannot build the model ({error})") from error


def _require_small(node: Any, folder: Path, name: str = "") -> None:
    """Refuses counts of labels, layers or blocks, at any depth of a config, that no model has."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else ((name, value) for value in node):
            _require_small(value, folder, str(key))
    elif isinstance(node, int | float) and not abs(node) <= _MOST and _is_count(name):
        raise FileError(f"load: {folder}: config.json says {name}={node}, more than {_MOST}; get it again")


def _is_count(name: str) -> bool:
    """`block_size` and its like count positions."""
    return any(word in name for word in _COUNTED) and not name.endswith("_size")


def class_of(raw: dict[str, Any], config: Any, folder: Path) -> Any:
    """The class named by `architectures`, looked up in transformers' tables for this kind of config."""
    from transformers.models.auto import modeling_auto

    named = raw.get("architectures")
    wanted = named[0] if isinstance(named, list) and len(named) == 1 else None
    known: dict[str, Any] = {}
    for table in (getattr(modeling_auto, name) for name in dir(modeling_auto) if name.endswith("_MAPPING")):
        if type(config) in table:
            found = table[type(config)]
            known |= {cls.__name__: cls for cls in (found if isinstance(found, tuple | list) else (found,)) if cls}
    if isinstance(wanted, str) and wanted in known:
        return known[wanted]
    raise FileError(
        f"load: {folder}: architectures {named!r} names no class of transformers for {raw['model_type']!r} "
        f"(it has {sorted(known)}); build the module and give it as load(path, model=module)"
    )


def _as_type(state: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    return {type_key(): next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)}


def type_key() -> str:
    """What transformers calls the type of a model; it was renamed in 4.56."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if version >= (4, 56) else "torch_dtype"


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


def without(value: Any, names: frozenset[str]) -> Any:
    """A JSON value without the keys `names`, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value
