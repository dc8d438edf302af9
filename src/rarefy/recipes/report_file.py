"""report.json and report.html: written aside, then renamed, so that an old report is never half replaced."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rarefy.core.errors import FileError
from rarefy.formats.folder import read_json

SCHEMA = "rarefy.report/1"
NAME = "report.json"


def plain(value: Any) -> Any:
    """Plain JSON data: numbers that JSON has no word for become null, everything unknown its text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def write_aside(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_report(report: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes report.json and report.html; gives their paths."""
    from rarefy.recipes.html import page

    data = plain({"schema": SCHEMA, **report})
    paths = report_paths(folder)
    write_aside(paths[0], json.dumps(data, indent=1) + "\n")
    write_aside(paths[1], page(data))
    return paths


def report_paths(folder: Path) -> tuple[Path, Path]:
    """Where report.json and report.html lie."""
    return folder / NAME, folder / "report.html"


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a folder that `compress` or `demo` wrote."""
    path = folder / NAME
    if not path.is_file():
        raise FileError(f"{path}: does not exist; run `rarefy compress` or `rarefy demo` first")
    report = read_json(path)
    if report.get("schema") != SCHEMA:
        raise FileError(f"{path}: is not a report of this version of rarefy ({SCHEMA}); run `rarefy compress` again")
    return report


def writable_folder(folder: Path) -> Path:
    """Makes the folder and tries to write in it: better now than after minutes of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(f"--out: {folder} cannot be written ({error.strerror}); choose another folder") from None
    return folder
