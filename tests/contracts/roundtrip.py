"""Plain JSON of frozen dataclasses and back: what a recipe file needs of every registered thing."""

import importlib
from dataclasses import fields, is_dataclass
from typing import Any


def encode(value: Any) -> Any:
    """Nested dataclasses, tuples and plain values as JSON types; anything else is an error."""
    if is_dataclass(value) and not isinstance(value, type):
        path = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"type": path, "fields": {f.name: encode(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple):
        return {"tuple": [encode(v) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise AssertionError(f"{value!r} is no plain value: fields hold numbers, strings, tuples and frozen dataclasses")


def decode(value: Any) -> Any:
    """The inverse of `encode`, through each dataclass's own constructor."""
    if isinstance(value, dict) and "type" in value:
        module, name = value["type"].split(":")
        made = getattr(importlib.import_module(module), name)
        return made(**{k: decode(v) for k, v in value["fields"].items()})
    return tuple(decode(v) for v in value["tuple"]) if isinstance(value, dict) else value
