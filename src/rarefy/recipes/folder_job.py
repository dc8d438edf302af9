"""What identifies a streamed pruning, in words: so that it is only ever gone on with as it was begun."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rarefy.calibration.batches import as_call
from rarefy.formats.manifest import digest
from rarefy.formats.shards import Shards


def job_words(source: Shards, batches: Sequence[Any], **asked: object) -> dict[str, str]:
    """{what: its value} of all that the result depends on; large things by their sums, objects by their fields."""
    words = {name: re.sub(r" at 0x[0-9a-f]+", "", str(value)) for name, value in asked.items()}
    return {"source": _source(source), "data": _data(batches), **words}


def changed(before: object, now: Mapping[str, str]) -> str | None:
    """What differs between two jobs, in words; None if nothing does."""
    if not isinstance(before, Mapping):
        return "it says nothing about its job"
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "; ".join(f"{n} was {_short(before.get(n))}, now {_short(now.get(n))}" for n in names) or None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _source(source: Shards) -> str:
    """Names, sizes and times of the files, and their headers: reading every byte would take as long as the work."""
    state = hashlib.sha256(repr(sorted(source.places.items())).encode())
    for file in [*source.files, "config.json"]:
        said = (source.folder / file).stat()
        state.update(f"{file} {said.st_size} {said.st_mtime_ns}\0".encode())
    return f"{len(source.files)} files, {state.hexdigest()[:16]}"


def _data(batches: Sequence[Any]) -> str:
    state = hashlib.sha256()
    for batch in batches:
        args, kwargs = as_call(batch)
        for name, value in [*((str(i), value) for i, value in enumerate(args)), *sorted(kwargs.items())]:
            state.update((digest(name, value) if isinstance(value, Tensor) else f"{name}={value!r}").encode())
    return f"{len(batches)} batches, {state.hexdigest()[:16]}"
