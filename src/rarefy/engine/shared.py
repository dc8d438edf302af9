"""Packed weights of saved models, on disk once for all processes: each maps the file, so that they share its pages.

`packed/` beside the measured times (`engine.cache`), one file for each saved model, machine and choice of kernels. They
are made at the first load and only save time and memory: one that is damaged, or of another machine, is never used, and
where none can be written every process packs for itself. What was used longest ago goes first when
`RAREFY_CACHE_GB` (10) is full; 0 keeps none.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.core.quantized import InputScale, QuantizedWeight
from rarefy.engine import pack_file
from rarefy.engine.cache import cache_folder
from rarefy.engine.machine import machine
from rarefy.formats.atomic import replace_file
from rarefy.ops import PackedWeight, available, map_file, pack, packed_bytes, see

_SUFFIX = ".packed"
_GIGABYTES = 10.0


@dataclass(frozen=True)
class Wanted:
    """A weight (out, in) to be had packed for a kernel. site: whose it is; source: gives it as it is handed to `pack`;
    lasting: whether `source` can be asked at any later time, at no cost of memory meanwhile."""

    site: str
    kernel: str
    shape: tuple[int, int]
    input_scale: InputScale | None
    source: Callable[[], Tensor | QuantizedWeight]
    lasting: bool

    @property
    def name(self) -> str:
        return f"{self.site} {self.kernel} {self.shape[0]}x{self.shape[1]}"

    def packed(self) -> PackedWeight:
        """In memory of its own."""
        return pack(self.source(), self.kernel, input_scale=self.input_scale)

    def seen(self, file: Any, at: int, nbytes: int) -> PackedWeight:
        """In a mapped file."""
        where = partial(see, file, at, nbytes, self.shape, self.kernel, input_scale=self.input_scale)
        if self.lasting:
            return where(source=self.source)
        weight = self.source()
        return where(quantized=weight if isinstance(weight, QuantizedWeight) else None)


def packs_of(wanted: Sequence[Wanted], model: Mapping[str, Any] | None) -> list[PackedWeight]:
    """All of them, in mapped memory where that can be had.

    model: what tells the saved model and the choices from all others, as JSON; None where nothing does.
    """
    if model is None or not wanted or not shares():
        return [one.packed() for one in wanted]
    key = key_of(model)
    path = path_of(key)
    found = _read(path, key, wanted)
    if found is None and _written(path, key, wanted):
        found = _read(path, key, wanted)
    return [one.packed() for one in wanted] if found is None else found


def shares() -> bool:
    """Whether packed weights are kept at all."""
    return available() and _limit() > 0


def key_of(model: Mapping[str, Any]) -> str:
    here = {part: value for part, value in machine().items() if part != "threads"}
    return json.dumps({"model": model, "machine": here}, sort_keys=True)


def path_of(key: str) -> Path:
    return _folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{_SUFFIX}"


def _read(path: Path, key: str, wanted: Sequence[Wanted]) -> list[PackedWeight] | None:
    """None where there is no such file, or none that can be used: then it is removed."""
    at = opened(path, key)
    if at is None:
        return None
    file, places = at
    try:
        found = [one.seen(file, *places[one.name]) for one in wanted]
    except (OSError, ValueError, KeyError) as error:
        thrown_away(path, error)
        return None
    used(path)
    return found


def opened(path: Path, key: str) -> tuple[Any, dict[str, tuple[int, int]]] | None:
    """(the mapped file, {name: (where it begins, bytes)}); None as `_read`."""
    if not path.exists():
        return None
    try:
        places = pack_file.places(path, key)
        return map_file(path), places
    except (OSError, ValueError) as error:
        thrown_away(path, error)
        return None


def thrown_away(path: Path, error: BaseException | None) -> None:
    said = f"it holds no {error}" if isinstance(error, KeyError) else error
    warnings.warn(f"packed weights: {path} cannot be used ({said}); the weights are packed again", stacklevel=4)
    with suppress(OSError):
        path.unlink()


def used(path: Path) -> None:
    """Now, the last time."""
    with suppress(OSError):  # another user's, say
        os.utime(path)


def _written(path: Path, key: str, wanted: Sequence[Wanted]) -> bool:
    """Packs one weight at a time, straight into the file; whether it is there."""
    return stored(path, key, lambda: ((one.name, packed_bytes(one.packed())) for one in wanted))


def stored(path: Path, key: str, weights: Callable[[], Iterable[tuple[str, Tensor]]]) -> bool:
    """Writes the file; whether it is there."""
    limit = _limit()

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            pack_file.write(file, key, weights(), limit)
        _make_room(limit - aside.stat().st_size)

    try:
        replace_file(path, write, durable=False)
    except FileError:  # a folder that cannot be written, a full disk, more than the limit
        return False
    return True


def _make_room(limit: float) -> None:
    """Removes what was used longest ago until the files take no more than `limit` bytes."""
    for path, _, _ in sorted(packed_files(), key=lambda found: found[2]):
        if sum(n for _, n, _ in packed_files()) <= limit:
            return
        with suppress(OSError):  # whoever has it mapped keeps its pages
            path.unlink()


def _folder() -> Path:
    return cache_folder() / "packed"


def _limit() -> float:
    """Bytes that all files may take."""
    asked = os.environ.get("RAREFY_CACHE_GB", "").strip()
    try:
        gigabytes = float(asked or _GIGABYTES)
    except ValueError:
        gigabytes = math.nan
    if math.isnan(gigabytes) or gigabytes < 0:
        raise FileError(f"RAREFY_CACHE_GB={asked!r} is no size; give gigabytes for packed weights, 0 for none")
    return gigabytes * 1e9


def packed_files() -> list[tuple[Path, int, float]]:
    """(path, bytes, seconds since the epoch when it was last used) of every file."""
    found = []
    for path in sorted(_folder().glob(f"*{_SUFFIX}")):
        with suppress(OSError):
            said = path.stat()
            found.append((path, said.st_size, said.st_mtime))
    return found


def clear_packed() -> int:
    """Removes every file; how many there were. Models that are in use keep their weights."""
    files = packed_files()
    for path, _, _ in files:
        with suppress(OSError):
            path.unlink()
    for left in _folder().glob(f".*{_SUFFIX}.*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    return len(files)
