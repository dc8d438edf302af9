"""Where the weights of a saved model lie: one file, a folder with one, or a folder with shards and an index."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.codes import Codes
from rarefy.formats.container import Contents, read_file, unpack_stored
from rarefy.formats.packed import Packed
from rarefy.formats.safe import read_stored

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_TEXT = 16 * 2**20


def weights_path(path: Path) -> Path:
    """Where a model given as `path` keeps its weights: a path ending in .safetensors itself, else in that folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / WEIGHTS


def read(path: str | Path) -> dict[str, Tensor | Packed | Codes]:
    """{name: tensor, or Packed or Codes with `to_dense()`} of a file or a folder; tied names give the same object."""
    contents = read_contents(Path(path))
    held = dict(contents.tensors)
    return held | {alias: held[name] for alias, name in contents.aliases.items()}


def read_contents(path: Path, *, mapped: bool = False) -> Contents:
    """The weights of a file or a folder. A folder with shards is read through its index. mapped: see `safe`."""
    weights = weights_path(path)
    if not weights.exists() and (path / INDEX).exists():
        return _read_shards(path, mapped)
    if not weights.exists():
        raise FileError(f"{path}: holds no {weights.name}; give a file or folder that rarefy.save wrote")
    return read_file(weights, mapped=mapped)


def _read_shards(folder: Path, mapped: bool) -> Contents:
    """All shards together, because the parts of one sparse tensor may lie in different ones."""
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise FileError(f"{folder / INDEX}: holds no weight_map of names; get the file again")
    stored: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise FileError(f"{folder / INDEX}: {file!r} is not a safetensors file in the same folder; not opened")
        stored |= read_stored(folder / file, mapped=mapped)[1]
    lost = sorted(where.keys() ^ stored.keys())
    if lost:
        raise FileError(f"{folder}: tensor {lost[0]!r} and {len(lost) - 1} more differ between index and shards")
    return Contents(unpack_stored(stored, folder), {}, own=False)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small text file. Raises FileError."""
    try:
        if path.stat().st_size > MAX_TEXT:
            raise ValueError(f"larger than {MAX_TEXT} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: cannot be read as JSON ({error}); get the file again") from error
    if not isinstance(found, dict):
        raise FileError(f"{path}: holds a {type(found).__name__}, not an object; get the file again")
    return found
