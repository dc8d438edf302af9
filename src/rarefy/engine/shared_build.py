"""What is built of packed convolutions, which are only known while it is built, in a file that processes share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rarefy.engine.conv_choices import Pack, Packed, WantedConv, packed_here
from rarefy.engine.shared import key_of, opened, path_of, shares, stored, thrown_away, used
from rarefy.ops import packed_bytes

_T = TypeVar("_T")


class _Unusable(Exception):
    """A file does not hold what is asked of it."""


def through_file(build: Callable[[Pack], _T], model: Mapping[str, Any] | None) -> _T:
    """What `build` makes of packed weights that it asks for one by one; in mapped memory where that can be had.

    Where there is no file yet, or one that cannot be used, it builds once in memory of its own, writes what was asked
    for, and builds again from the file. model: as of `shared.packs_of`.
    """
    if model is None or not shares():
        return build(_once({}, packed_here))
    key = key_of(model)
    path = path_of(key)
    found = _built(path, key, build)
    if found is not None:
        return found
    held: dict[str, Packed] = {}
    made = build(_once(held, packed_here))
    if held and stored(path, key, lambda: ((name, packed_bytes(packed)) for name, packed in held.items())):
        found = _built(path, key, build)
    return made if found is None else found


def _once(held: dict[str, Packed], get: Pack) -> Pack:
    """Asks for nothing twice."""

    def ask(wanted: WantedConv) -> Packed:
        if wanted.name not in held:
            held[wanted.name] = get(wanted)
        return held[wanted.name]

    return ask


def _built(path: Path, key: str, build: Callable[[Pack], _T]) -> _T | None:
    """From a file; None where there is none, or none that can be used: then it is removed."""
    at = opened(path, key)
    if at is None:
        return None
    file, places = at

    def seen(wanted: WantedConv) -> Packed:
        try:
            return wanted.seen(file, *places[wanted.name])
        except (OSError, ValueError, KeyError) as error:
            raise _Unusable from error

    try:
        found = build(_once({}, seen))
    except _Unusable as error:
        thrown_away(path, error.__cause__)
        return None
    used(path)
    return found
