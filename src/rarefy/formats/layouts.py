"""Tensors of a file that says nothing about itself: what they are is seen from their names and parts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rarefy.formats import adapters, bitmask, bitmask24, masked, scaled
from rarefy.formats.elsewhere import refuse_foreign
from rarefy.formats.held import Held, plain
from rarefy.formats.names import join, recognise

_SPARSE = {
    "sparse-bitmask": (bitmask.PARTS, bitmask.unpack),
    "sparse-24-bitmask": (bitmask24.PARTS, bitmask24.unpack),
}


def recognised(
    stored: Mapping[str, Tensor | Held], adapter: Mapping[str, Any] | None = None
) -> dict[str, Tensor | Held]:
    """{name: tensor, or what stands for one}. adapter: the adapter_config.json beside the file. Raises FileError."""
    refuse_foreign(stored)
    found = recognise(stored)
    parts = {join(prefix, part) for prefix, layout in found.values() for part in _SPARSE[layout][0]}
    entries: dict[str, Tensor | Held] = {name: entry for name, entry in stored.items() if name not in parts}
    for name, (prefix, layout) in found.items():
        names, unpack = _SPARSE[layout]
        entries[name] = unpack({part: plain(stored[join(prefix, part)], name) for part in names}, name)
    return adapters.fold(scaled.fold(masked.fold(entries)), adapter)
