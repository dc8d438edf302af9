"""The config.json of a Hugging Face model: what is written, what is believed of one, and the class that it names."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rarefy.activations.relufication import Relufication, buildable
from rarefy.core.errors import FileError, SparsityError
from rarefy.formats.atomic import write_text
from rarefy.formats.container import Stored

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


def plain_config(raw: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], Relufication | None]:
    """A config that transformers can build, and what is to be applied to the model then."""
    try:
        return buildable(raw)
    except SparsityError as error:
        raise FileError(f"load: {folder / 'config.json'}: {error}") from error


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


def type_key() -> str:
    """What transformers calls the type of a model; it was renamed in 4.56."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if version >= (4, 56) else "torch_dtype"


def without(value: Any, names: frozenset[str]) -> Any:
    """A JSON value without the keys `names`, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value
