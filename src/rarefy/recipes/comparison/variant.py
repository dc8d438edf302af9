"""A method as it stands in a comparison: its name, how it spreads its budget, and its options."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rarefy.core.errors import DataError
from rarefy.core.protocols import Allocation, Pattern, Search
from rarefy.core.registry import lookup
from rarefy.patterns.parse import parse_pattern
from rarefy.pruning import OneShot
from rarefy.pruning.repair import with_repair
from rarefy.pruning.resolve import resolve_method, resolve_pattern, resolve_spread


@dataclass(frozen=True)
class Variant:
    """One row of the table. pattern: stands in for "unstructured", and for no other pattern of the comparison."""

    label: str
    method: str | OneShot = field(hash=False)
    allocation: str | Allocation | Search | None = field(default=None, hash=False)
    pattern: str | Pattern | None = field(default=None, hash=False)
    repair: str | None = field(default=None, hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def check(self) -> None:
        """Raises for a name or option that does not exist, before anything slow happens."""
        _, one_shot = resolve_method(self.method, dict(self.options))
        support = resolve_pattern(self.pattern, one_shot.pattern)
        if self.allocation is not None:
            resolve_spread(self.allocation, one_shot, support)
        with_repair(one_shot, self.repair)

    def facts(self) -> dict[str, Any]:
        """What decides the result, for the key of a cell; the label does not."""
        return {
            "method": self.method,
            "allocation": self.allocation,
            "pattern": self.pattern,
            "repair": self.repair,
            "options": dict(self.options),
        }


def parse_variant(text: str) -> Variant:
    """The variant of `METHOD[@ALLOCATION][+NAME=VALUE]...`; NAME is an option of the method, `repair` or `pattern`.

    A part without "=" goes on with the value before it, so that `repair=weights+bias` reads as it does in `prune`.
    Values are read as JSON, or as the word they are.

    >>> parse_variant("wanda@owl").allocation, parse_variant("sparsegpt+repair=weights+bias+columns=64").options
    ('owl', {'columns': 64})
    """
    head, *parts = text.strip().split("+")
    method, at, allocation = head.partition("@")
    given: list[tuple[str, str]] = []
    for part in parts:
        name, equals, value = part.partition("=")
        if equals and name.isidentifier():
            given.append((name, value))
        elif given:
            given[-1] = (given[-1][0], f"{given[-1][1]}+{part}")
        else:
            raise DataError(f"methods: {text!r}: {part!r} is no NAME=VALUE; write e.g. sparsegpt+repair=weights")
    if not method or (at and not allocation):
        raise DataError(f"methods: {text!r} is no METHOD[@ALLOCATION][+NAME=VALUE]...; write e.g. wanda@owl")
    return _variant(text.strip(), method, allocation or None, given)


def _variant(label: str, method: str, allocation: str | None, given: list[tuple[str, str]]) -> Variant:
    options = {name: _value(value) for name, value in given}
    if len(options) < len(given):
        raise DataError(f"methods: {label!r} gives an option twice")
    own = {name: str(options.pop(name)) for name in ("repair", "pattern") if name in options}
    return Variant(label, method, allocation, own.get("pattern"), own.get("repair"), options)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def variant_of(thing: object, label: str | None = None) -> Variant:
    """The checked variant of a text, a OneShot or a Variant."""
    if isinstance(thing, str):
        found = parse_variant(thing)
        lookup("method", str(found.method))
    elif isinstance(thing, OneShot):
        found = Variant(type(thing.solver).__name__.lower(), thing)
    elif isinstance(thing, Variant):
        found = thing
    else:
        raise DataError(f"methods: {thing!r} is neither a text (wanda@owl), nor a OneShot, nor a Variant")
    found.check()
    if found.pattern is not None and isinstance(found.pattern, str):
        parse_pattern(found.pattern)
    if label is None:
        return found
    return Variant(label, found.method, found.allocation, found.pattern, found.repair, found.options)
