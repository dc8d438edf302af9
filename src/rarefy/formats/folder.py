"""Where the weights of a saved model lie: one file, a folder with one, or a folder with shards and an index."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.container import Contents, read_file, unpack_stored
from rarefy.formats.held import Held
from rarefy.formats.safe import read_stored, size_of
from rarefy.formats.torch_file import SUFFIXES, read_torch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_TEXT = 16 * 2**20
MAX_VALUES = 300_000
"""Of a JSON file: each takes a hundred bytes in memory, and as few as two in the file."""


def weights_path(path: Path) -> Path:
    """Where a model given as `path` keeps its weights: a path ending in .safetensors itself, else in that folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / WEIGHTS


def read(path: str | Path) -> dict[str, Tensor | Held]:
    """{name: tensor, or what stands for one with `to_dense()`} of a file or a folder; tied names give the same object.

    A safetensors file of any layout in `docs/formats.md`, a state dict of `torch.save`, a folder with one of them or
    with shards and an index, or an adapter's folder (`Delta`s). Raises FileError.
    """
    contents = read_contents(Path(path))
    held = dict(contents.tensors)
    return held | {alias: held[name] for alias, name in contents.aliases.items()}


def read_contents(path: Path, *, mapped: bool = False) -> Contents:
    """The weights of a file or a folder. A folder with shards is read through its index. mapped: see `safe`."""
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _read_file(path, mapped)
    if path.suffix in SUFFIXES and path.is_file():
        return Contents(unpack_stored(read_torch(path, mapped=mapped), path), {}, own=False)
    for name in (WEIGHTS, INDEX, ADAPTER, TORCH_WEIGHTS, TORCH_INDEX):
        if (path / name).exists():
            return _read_shards(path, name, mapped) if name in (INDEX, TORCH_INDEX) else _read_file(path / name, mapped)
    if path.is_file():
        raise FileError(f"{path}: is neither .safetensors nor of torch.save ({', '.join(SUFFIXES)}); {_other(path)}")
    raise FileError(f"{path}: holds no {weights_path(path).name}; give a file or folder that rarefy.save wrote")


def _read_file(path: Path, mapped: bool) -> Contents:
    if path.suffix != ".safetensors":
        return read_contents(path, mapped=mapped)
    config = path.parent / ADAPTER_CONFIG
    if path.name != ADAPTER or not config.exists():
        return read_file(path, mapped=mapped)
    return Contents(unpack_stored(read_stored(path, mapped=mapped)[1], path, read_json(config)), {}, own=False)


def _other(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"GGUF":
        return "a GGUF file is read by llama.cpp; get the model's Hugging Face folder"
    return "convert it where it was made"


def _read_shards(folder: Path, index: str, mapped: bool) -> Contents:
    """All shards together, because the parts of one sparse tensor may lie in different ones."""
    stored: dict[str, Tensor | Held] = {}
    where = shard_files(folder, index)
    for path in (folder / file for file in sorted(set(where.values()))):
        held = read_stored(path, mapped=mapped)[1] if index == INDEX else read_torch(path, mapped=mapped)
        if twice := sorted(held.keys() & stored.keys()):
            raise FileError(f"{folder}: tensor {twice[0]!r} lies in two shards; get the files again")
        stored |= held
    lost = sorted(where.keys() ^ stored.keys())
    if lost:
        raise FileError(f"{folder}: tensor {lost[0]!r} and {len(lost) - 1} more differ between index and shards")
    return Contents(unpack_stored(stored, folder), {}, own=False)


def shard_files(folder: Path, index: str = INDEX) -> dict[str, str]:
    """{tensor: file} of an index, which can only name files of its own folder and kind. Raises FileError."""
    where = read_json(folder / index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise FileError(f"{folder / index}: holds no weight_map of names; get the file again")
    suffix = ".safetensors" if index == INDEX else ".bin"
    for file in sorted(set(where.values())):
        if Path(file).name != file or not file.endswith(suffix):
            raise FileError(f"{folder / index}: {file!r} is not a {suffix[1:]} file in the same folder; not opened")
    return where


def read_json(path: Path, *, values: int = MAX_VALUES) -> dict[str, Any]:
    """A JSON object from a small text file, with at most so many values. Raises FileError."""
    try:
        if size_of(path) > MAX_TEXT:
            raise ValueError(f"larger than {MAX_TEXT} bytes")
        text = path.read_text(encoding="utf-8")
        if sum(map(text.count, "[{,")) > values:
            raise ValueError(f"more than {values} values")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: cannot be read as JSON ({error}); get the file again") from error
    if not isinstance(found, dict):
        raise FileError(f"{path}: holds a {type(found).__name__}, not an object; get the file again")
    return found
