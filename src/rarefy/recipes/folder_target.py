"""The folder that a streamed pruning writes: working copies of the shards, a journal, and the moves at the end.

Every shard is first copied whole, so that whatever is not pruned is there byte for byte and the disk space is taken
before any work; pruned tensors are then written over in place. The journal names the units whose tensors are on the
disk: of all others the copy is worthless and is written again from the source. A kill at any moment loses one unit.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.atomic import replace_file, write_text
from rarefy.formats.folder import INDEX, read_json
from rarefy.formats.shards import Shards, drop_metadata
from rarefy.recipes.alone import alone
from rarefy.recipes.folder_job import changed
from rarefy.recipes.report_file import plain
from rarefy.recipes.store_carry import carry_companions

WORK = ".rarefy-prune"
REPORT = "rarefy-prune.json"
SCHEMA = "rarefy.prune-folder/1"


@dataclass
class Journal:
    """What is done. job: what was asked, in words; layout: the chain of blocks once it is known; units: {unit: the
    reports of its sites}; written: stored names that hold their pruned values; runs: processes that worked on it."""

    job: Mapping[str, str]
    layout: Mapping[str, Any] | None = None
    units: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_rss: int = 0
    runs: int = 0


class Target:
    """One folder while a process writes it."""

    def __init__(self, folder: Path, source: Shards, journal: Journal) -> None:
        self.folder, self.work, self.source, self.journal = folder, folder / WORK, source, journal
        self.shards = Shards(self.work, source.places)

    def save(self) -> None:
        """Puts the journal on the disk."""
        write_text(self.work / "journal.json", json.dumps(plain({"schema": SCHEMA, **asdict(self.journal)})) + "\n")

    def copy_shards(self) -> None:
        """The working copies that are not there yet. Raises FileError where the disk has no room for them."""
        absent = [f for f in self.source.files if not (self.work / f).exists() and not (self.folder / f).exists()]
        need = sum((self.source.folder / file).stat().st_size for file in absent)
        free = shutil.disk_usage(self.work).free
        if need > free:
            raise FileError(
                f"{self.folder}: needs {need} bytes on a disk that has {free} free; free space or choose another"
            )
        for file in absent:
            replace_file(self.work / file, partial(_copy, self.source.folder / file))

    def read(self, name: str) -> Tensor:
        """A stored tensor as it is by now: pruned if its unit is done."""
        return (self.shards if name in self.journal.written else self.source).read(name)

    def mapped(self, name: str) -> Tensor:
        return (self.shards if name in self.journal.written else self.source).mapped(name)

    def commit(self, unit: str, values: Mapping[str, Tensor], reports: Sequence[Mapping[str, Any]]) -> None:
        """A unit is done: its tensors first, then the line in the journal that makes them count."""
        self.shards.write(values)
        self.journal.units[unit] = [dict(report) for report in reports]
        self.journal.written.extend(name for name in values if name not in self.journal.written)
        self.save()

    def finish(self, report: Mapping[str, Any]) -> None:
        """Moves the shards to where they belong, the companions beside them, the report last."""
        source = self.source.folder
        carry_companions(source, self.folder)
        for name in ("config.json", INDEX):
            if (source / name).exists():
                replace_file(self.folder / name, partial(shutil.copyfile, source / name))
        for file in self.source.files:
            if (self.work / file).exists():
                os.replace(self.work / file, self.folder / file)
        write_text(self.folder / REPORT, json.dumps(plain({"schema": SCHEMA, **report}), indent=1) + "\n")
        shutil.rmtree(self.work, ignore_errors=True)


def _copy(source: Path, to: Path) -> None:
    shutil.copyfile(source, to)
    drop_metadata(to, "rarefy.")  # of a file that rarefy wrote: sums over the old content


def finished(folder: Path, job: Mapping[str, str]) -> dict[str, Any] | None:
    """The report of a folder that is done already, None if it is not; a FileError if it is of another job."""
    path = folder / REPORT
    if not path.exists():
        return None
    report = read_json(path)
    if report.get("schema") != SCHEMA or (other := changed(report.get("job"), job)):
        why = other if report.get("schema") == SCHEMA else "it is of another version of rarefy"
        raise FileError(f"{folder}: holds a finished result of another job: {why}; choose an empty folder")
    shutil.rmtree(folder / WORK, ignore_errors=True)  # a kill came after the report
    return report


@contextmanager
def open_target(folder: Path, source: Shards, job: Mapping[str, str]) -> Iterator[Target]:
    """The folder, new or with what an earlier run of the same job left there. Raises FileError."""
    work = folder / WORK
    if not (work / "journal.json").exists() and folder.exists() and any(p.name != WORK for p in folder.iterdir()):
        raise FileError(f"{folder}: is not empty and was not begun by prune_folder; choose an empty folder")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be written ({error}); choose another folder") from error
    with alone(work / "lock", folder, "pruning into"):
        target = Target(folder, source, _journal(work / "journal.json", folder, job))
        for left in work.rglob("*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        target.journal.runs += 1
        target.save()
        yield target


def _journal(path: Path, folder: Path, job: Mapping[str, str]) -> Journal:
    if not path.exists():
        return Journal(job)
    found = read_json(path)
    if found.pop("schema", None) != SCHEMA or not found.keys() <= {field.name for field in fields(Journal)}:
        raise FileError(f"{path}: was not written by this version of rarefy; choose an empty folder")
    if not _is_sane(found):
        raise FileError(f"{path}: is damaged; choose an empty folder")
    journal = Journal(**found)
    if other := changed(journal.job, job):
        raise FileError(f"{folder}: was begun with another job: {other}; ask for the same, or choose an empty folder")
    return journal


def _is_sane(found: Mapping[str, Any]) -> bool:
    """Whether every field is of its type: the file may be damaged, or someone else's."""
    units, written, layout = found.get("units", {}), found.get("written", []), found.get("layout")
    return (
        isinstance(found.get("job"), dict)
        and (layout is None or isinstance(layout, dict))
        and isinstance(units, dict)
        and all(isinstance(sites, list) and all(isinstance(one, dict) for one in sites) for sites in units.values())
        and isinstance(written, list)
        and all(isinstance(name, str) for name in written)
        and type(found.get("seconds", 0.0)) in (int, float)
        and type(found.get("peak_rss", 0)) is type(found.get("runs", 0)) is int
    )
