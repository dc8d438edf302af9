"""Cells on disk: one small file each, named by a digest of everything that decides what is in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rarefy.core.errors import FileError
from rarefy.formats.atomic import write_text
from rarefy.recipes.comparison.cell import Case, Cell, Outcome
from rarefy.recipes.comparison.digest import code_digest, digest
from rarefy.recipes.environment import version

SCHEMA = "rarefy.cell/1"


@dataclass(frozen=True)
class Keys:
    """The digests that all cells of a comparison share, taken once."""

    model: str
    data: Mapping[int, str]
    evaluate: str
    shared: str
    code: str

    def of(self, cell: Cell) -> str:
        """The name of a cell's file. The dense model does not depend on seed, data or methods."""
        if cell.variant is None or cell.condition is None:
            return digest((SCHEMA, self.model, self.evaluate, self.code))[:32]
        made = (cell.variant.facts(), cell.condition, cell.seed, self.data[cell.seed], self.shared)
        return digest((SCHEMA, self.model, self.evaluate, self.code, *made))[:32]


def keys_of(case: Case) -> Keys:
    """Digests of the model's bytes, of each seed's batches, of the evaluation, the loss, and rarefy's own code."""
    return Keys(
        digest(case.model),
        {seed: digest(list(batches)) for seed, batches in case.data.items()},
        digest(case.evaluate),
        digest((case.loss, case.ignore, case.undivided)),
        digest((version("rarefy"), code_digest())),
    )


@dataclass(frozen=True)
class CellStore:
    """Outcomes in a folder. A kill at any moment leaves a file whole or absent."""

    folder: Path

    def get(self, key: str) -> Outcome | None:
        """What is known of a cell; None where nothing is, or nothing that can be read."""
        try:
            data = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("outcome"), dict):
            return None
        return _outcome(data["outcome"])

    def put(self, key: str, cell: Cell, outcome: Outcome) -> None:
        where = {"label": cell.label, "seed": cell.seed}
        text = json.dumps({"schema": SCHEMA, **where, "outcome": outcome.to_dict()}, indent=1)
        write_text(self._path(key), text + "\n")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _outcome(data: Mapping[str, Any]) -> Outcome | None:
    names = {field.name for field in fields(Outcome)}
    return Outcome(**data) if set(data) == names and _is_sane(data) else None


def _is_sane(data: Mapping[str, Any]) -> bool:
    """Whether every field is of its type."""
    numbers = (data["sparsity"], data["seconds"], data["evaluation_seconds"], data["peak_mib"])
    return (
        isinstance(data["metrics"], dict)
        and all(type(value) in (int, float) for value in data["metrics"].values())
        and all(value is None or type(value) in (int, float) for value in numbers)
        and (data["layers"] is None or type(data["layers"]) is int)
        and isinstance(data["skipped"], dict)
        and all(isinstance(why, str) for why in data["skipped"].values())
        and isinstance(data["error"], str | None)
        and isinstance(data["retry"], bool)
    )


def open_store(out: Path) -> CellStore:
    """The store in OUT/cells; an error now if it cannot be written, not after the first cell."""
    store = CellStore(out / "cells")
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        write_text(store.folder / ".writable", "")
    except (OSError, FileError) as error:
        raise FileError(f"out: {out} cannot be written ({error}); choose another folder") from None
    return store
