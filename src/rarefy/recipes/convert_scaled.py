"""Quantised weights on their way into a bitmask layout: the stored numbers stay, and their groups in the config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.formats.codes import Codes
from rarefy.formats.held import Held, dense
from rarefy.formats.scaled import Scaled
from rarefy.recipes.store_config import NEVER, compression_block, without

_CARRIED = (
    *("version", "config_groups", "format", "ignore", "kv_cache_scheme", "quantization_status"),
    *("global_compression_ratio", "transform_config"),
)
_FORMATS = ("dense", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
"""Of quantised weights that are not packed. Other programs look the name up, so one that is not here is not carried."""
UNNAMED = "rarefy-scaled"
"""The format where no groups are known: other loaders stop at it instead of taking the integers for the weights."""


@dataclass(frozen=True)
class LaidOut:
    """tensors: what is to be written; kept: weights that keep their stored numbers; widened: those that became floats
    though the source stores them in fewer bits; notes: of both, for the report."""

    tensors: Mapping[str, Tensor]
    kept: tuple[str, ...]
    widened: tuple[str, ...]
    notes: tuple[str, ...]


def lay_out(source: Mapping[str, Tensor | Held], entries: Mapping[str, Tensor | Held], *, scales: bool) -> LaidOut:
    """What is written of `entries`. source: the same before an adapter was merged; scales: whether the target has them
    beside stored numbers."""
    tensors: dict[str, Tensor] = {}
    kept = tuple(name for name, entry in entries.items() if scales and isinstance(entry, Scaled))
    for name, entry in entries.items():
        tensors |= entry.parts(name) if scales and isinstance(entry, Scaled) else {name: dense(entry)}
    notes = (f"{len(kept)} quantised weights keep their stored numbers and scales",) if kept else ()
    whys = {name: why for name, entry in source.items() if (why := _why_wider(entry, entries[name], scales=scales))}
    return LaidOut(tensors, kept, tuple(whys), notes + _said(whys, lambda name: tensors[name].dtype))


def widened(source: Mapping[str, Tensor | Held], dtype: torch.dtype) -> tuple[str, ...]:
    """Notes on what a target that holds dense weights of one type stores wider than the source does."""
    whys = {name: why for name, entry in source.items() if (why := _why_wider(entry, entry, scales=False))}
    floats = {entry.dtype for entry in source.values() if isinstance(entry, Tensor) and entry.dtype.is_floating_point}
    narrow = sorted(_name(other) for other in floats if other.itemsize < dtype.itemsize)
    plain = (f"{' and '.join(narrow)} in the source, {_name(dtype)} here: this target is written so",) if narrow else ()
    return plain + _said(whys, lambda name: dtype)


def _said(whys: Mapping[str, str], type_of: Callable[[str], torch.dtype]) -> tuple[str, ...]:
    """A note for each reason. whys: {weight: why it is wider}."""
    notes = []
    for why in dict.fromkeys(whys.values()):
        first, *more = (name for name in whys if whys[name] == why)
        others = f" and {len(more)} more" if more else ""
        notes.append(f"{first!r}{others}: quantised in the source, {_name(type_of(first))} here, because {why}")
    return tuple(notes)


def _why_wider(before: Tensor | Held, now: Tensor | Held, *, scales: bool) -> str | None:
    """Why a quantised weight is no longer stored as it was, None for all others."""
    if isinstance(before, Codes):
        return "no other program reads rarefy's packed integers"
    if not isinstance(before, Scaled) or (scales and now is before):
        return None
    return "the adapter's changes lie on no grid" if scales else "this target is dense"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def block(
    config: Mapping[str, Any], layout: str, sparse: Mapping[str, float], laid: LaidOut
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """(the `quantization_config`, notes) of a converted folder. config: the source's config.json.

    Groups are carried as they are, with the weights that were widened among those to be ignored.
    """
    zeros = sum(sparse.values()) / max(1, len(sparse))
    sparsity = compression_block(layout, _modules(sparse), zeros) if sparse else None
    if not laid.kept:
        return sparsity, ()
    said = _groups(config)
    if said is None:
        why = "config.json of the source names no groups of compressed-tensors for its scales: only rarefy reads this"
        return compression_block(UNNAMED, _modules(laid.kept), zeros), (why,)
    if laid.widened:
        before = said.get("ignore")
        said["ignore"] = [*(before if isinstance(before, list) else ()), *_modules(laid.widened)]
    return {"quant_method": "compressed-tensors"} | said | (sparsity or {}), ()


def _groups(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What compressed-tensors has to know of the quantisation; None where the config does not say it."""
    said = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(said, dict) or said.get("quant_method", "compressed-tensors") != "compressed-tensors":
        return None
    found: dict[str, Any] = without({key: said[key] for key in _CARRIED if key in said}, NEVER)
    return found if found.get("config_groups") and all(name in _FORMATS for name in _formats(found)) else None


def _formats(node: Any) -> list[Any]:
    """The formats that are named, at any depth."""
    if isinstance(node, list):
        return [name for item in node for name in _formats(item)]
    if not isinstance(node, dict):
        return []
    own = [node["format"]] if node.get("format") is not None else []
    return own + [name for item in node.values() for name in _formats(item)]


def _modules(names: Mapping[str, float] | tuple[str, ...]) -> list[str]:
    return [name.removesuffix(".weight") for name in names]
