"""Measured times kept on disk, so that a shape is timed once a machine and not once a process.

One SQLite file, `timings.sqlite`, in `RAREFY_CACHE_DIR` or the platform's folder for caches. Several processes may
read and write it at a time. It can be deleted at any moment; a damaged one is thrown away with a warning.
"""

import json
import math
import os
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rarefy.engine.cell import Cell, Types
from rarefy.engine.machine import machine, machine_id

VERSION = 2
_FILE = "timings.sqlite"
_WAIT = 5.0  # seconds that a process waits for another's write
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS machines (id TEXT PRIMARY KEY, said TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS times (machine TEXT, key TEXT, record TEXT, taken REAL, PRIMARY KEY (machine, key))
WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True)
class Record:
    """Milliseconds by name ("dense" among them), taken side by side; cell: of a layer, None of a whole model.

    tried: every name that was considered; those without a time were expected to be slower and not timed.
    """

    ms: Mapping[str, float]
    cell: Cell | None = None
    tried: frozenset[str] = frozenset()


def cache_folder() -> Path:
    """`RAREFY_CACHE_DIR`, or `rarefy` in the folder that the system has for caches; it need not exist."""
    asked = os.environ.get("RAREFY_CACHE_DIR", "").strip()
    if asked:
        return Path(asked).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "rarefy"


@dataclass(frozen=True)
class TimingCache:
    """The times of this machine (`engine.machine`) in a folder; without one, in `cache_folder()` at each call.

    Nothing here fails: what cannot be read is unknown, what cannot be written is timed again next time.
    """

    folder: Path | None = None

    @property
    def path(self) -> Path:
        return (self.folder or cache_folder()) / _FILE

    def get(self, key: str) -> Record | None:
        """What is known of a key on this machine."""
        found = self._run("SELECT record FROM times WHERE machine = ? AND key = ?", (machine_id(), key))
        return _record(found[0][0]) if found else None

    def put(self, key: str, record: Record) -> None:
        """Remembers; what was known of the key is replaced."""
        text = json.dumps({"ms": dict(record.ms), "cell": _plain(record.cell), "tried": sorted(record.tried)})
        said = json.dumps(machine(), sort_keys=True)
        self._run("INSERT OR IGNORE INTO machines VALUES (?, ?)", (machine_id(), said), create=True)
        row = (machine_id(), key, text, time.time())
        self._run("INSERT OR REPLACE INTO times VALUES (?, ?, ?, ?)", row, create=True)

    def layers(self) -> list[Record]:
        """All records of layers on this machine."""
        rows = self._run("SELECT record FROM times WHERE machine = ?", (machine_id(),))
        found = (_record(text) for (text,) in rows)
        return [record for record in found if record is not None and record.cell is not None]

    def describe(self) -> dict[str, Any]:
        """Where it lies, bytes on disk, times of this machine and of all."""
        path = self.path
        mine = self._run("SELECT count(*) FROM times WHERE machine = ?", (machine_id(),))
        everyone = self._run("SELECT count(*) FROM times", ())
        return {
            "place": str(path),
            "bytes": path.stat().st_size if path.exists() else 0,
            "cells of this machine": mine[0][0] if mine else 0,
            "cells": everyone[0][0] if everyone else 0,
        }

    def clear(self) -> int:
        """Forgets everything, of other machines too; how many records there were."""
        count = int(self.describe()["cells"])
        _remove(self.path)
        return count

    def _run(self, statement: str, values: tuple[Any, ...], *, create: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a statement; none where the file does not exist, or cannot be used."""
        path = self.path
        if not create and not path.exists():
            return []
        for attempt in (1, 2):
            try:
                return _execute(path, statement, values)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    _warn_once(f"timing cache: {path} cannot be used ({error}); set RAREFY_CACHE_DIR to another folder")
                    return []
                why = str(error) or "its schema is no text"  # Python 3.10 has no words for bytes that it cannot decode
                warnings.warn(f"timing cache: {path} is damaged ({why}); it is thrown away", stacklevel=3)
                _remove(path)
                if attempt == 2 or not create:
                    return []
        return []


def _execute(path: Path, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Opens, runs, commits and closes: nothing is held between calls, so forks and threads are safe."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise sqlite3.OperationalError(str(error)) from error
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # a power cut may cost the cache, which is only a cache
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(_SCHEMA)
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"layout {version}, this rarefy has {VERSION}")
            return list(connection.execute(statement, values))
    except UnicodeDecodeError as error:  # what SQLite says of a damaged schema quotes its bytes
        raise sqlite3.DatabaseError("its schema is no text") from error


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is at fault, and not a lock, a missing right or a full disk."""
    return not isinstance(error, sqlite3.OperationalError) or "no such" in str(error)


def _remove(path: Path) -> None:
    for name in (path, *path.parent.glob(path.name + "-*")):  # SQLite's journal lies beside it
        with suppress(OSError):
            name.unlink()


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _plain(cell: Cell | None) -> dict[str, Any] | None:
    return None if cell is None else asdict(cell)


def _record(text: str) -> Record | None:
    """A record as it was put, or None for what is no record: the file is not trusted."""
    try:
        raw = json.loads(text)
        ms = {str(name): float(value) for name, value in raw["ms"].items()}
        cell = None if raw["cell"] is None else _cell(raw["cell"])
        tried = frozenset(map(str, raw["tried"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return Record(ms, cell, tried) if ms and all(map(_is_time, ms.values())) else None


def _is_time(ms: float) -> bool:
    return math.isfinite(ms) and ms > 0


def _cell(raw: Mapping[str, Any]) -> Cell:
    out, width = map(int, raw["shape"])
    said = raw["types"]
    types = Types(str(said["weights"]), str(said["activations"]), bool(said["static"]), bool(said.get("cold", False)))
    support, behind = tuple(map(int, raw["support"])), str(raw["activation"])
    return Cell((out, width), int(raw["nnz"]), support, int(raw["tokens"]), types, behind, bool(raw["bias"]))


def known_layers(cache: TimingCache) -> Iterator[tuple[Cell, str, float]]:
    """(cell, name, milliseconds) of every time of a layer on this machine whose weights were in a cache if they fit."""
    for record in cache.layers():
        for name, ms in record.ms.items():
            if record.cell is not None and not record.cell.types.cold:
                yield record.cell, name, ms
