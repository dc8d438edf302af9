"""A folder of safetensors files read and rewritten one tensor at a time: no more in memory than the tensor."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rarefy.core.errors import DTypeError, FileError
from rarefy.formats.folder import INDEX, WEIGHTS, read_json
from rarefy.formats.header import METADATA, read_header, write_header
from rarefy.formats.safe import check_header

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Place:
    """Where one tensor lies. dtype: as the file calls it; begin and size: bytes in the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


class Shards:
    """The tensors of a folder's weight files, by name. Nothing is kept: each read and each write goes to the disk."""

    def __init__(self, folder: Path, places: Mapping[str, Place]) -> None:
        self.folder, self.places = folder, places

    @property
    def files(self) -> list[str]:
        return sorted({place.file for place in self.places.values()})

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def dtype(self, name: str) -> torch.dtype:
        place = self.places[name]
        if place.dtype not in _TYPES:
            raise DTypeError(f"{self.folder / place.file}: {name!r} is stored as {place.dtype}; convert it first")
        return _TYPES[place.dtype]

    def read(self, name: str) -> Tensor:
        """A copy of a tensor, in the type that it is stored in. Raises FileError."""
        place, dtype = self.places[name], self.dtype(name)
        path, held = self.folder / place.file, torch.empty(place.size, dtype=torch.uint8)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(place.begin)
                _read_into(file, held.numpy().data)
        except OSError as error:
            raise FileError(f"{path}: {name!r} cannot be read ({error}); get the file again") from error
        return held.view(dtype).reshape(place.shape)

    def mapped(self, name: str) -> Tensor:
        """The tensor as pages of the file: only those that are looked at take memory. Writes go to a private copy."""
        place, dtype = self.places[name], self.dtype(name)
        path = self.folder / place.file
        try:
            held = numpy.memmap(path, numpy.uint8, "c", place.begin, (place.size,))
        except (OSError, ValueError) as error:
            raise FileError(f"{path}: {name!r} cannot be read ({error}); get the file again") from error
        return torch.from_numpy(held).view(dtype).reshape(place.shape)

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Puts tensors in their places, in the types stored; they are on the disk on return. Raises FileError."""
        for file in sorted({self.places[name].file for name in values}):
            path = self.folder / file
            try:
                with path.open("r+b", buffering=0) as handle:
                    for name in (name for name in values if self.places[name].file == file):
                        handle.seek(self.places[name].begin)
                        _write_from(handle, self._bytes(name, values[name]).numpy().data)
                    os.fsync(handle.fileno())
            except OSError as error:
                raise FileError(f"{path}: could not be written ({error}); free space and run it again") from error

    def _bytes(self, name: str, value: Tensor) -> Tensor:
        place = self.places[name]
        if tuple(value.shape) != place.shape:
            raise FileError(f"{name!r}: has shape {tuple(value.shape)}, but {place.file} holds {place.shape}")
        return value.detach().to(self.dtype(name)).contiguous().reshape(-1).view(torch.uint8)


def open_shards(folder: Path) -> Shards:
    """The shards of a Hugging Face folder, as its index or its only file says; every header is checked first."""
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; give a local Hugging Face folder with *.safetensors")
    if (folder / WEIGHTS).exists():
        return Shards(folder, places_of(folder / WEIGHTS))
    if not (folder / INDEX).exists():
        raise FileError(f"{folder}: has neither {WEIGHTS} nor {INDEX}; convert the weights to safetensors first")
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise FileError(f"{folder / INDEX}: holds no weight_map of names; get the file again")
    places: dict[str, Place] = {}
    for file in sorted(set(where.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise FileError(f"{folder / INDEX}: {file!r} is not a safetensors file in the same folder; not opened")
        places |= places_of(folder / file)
    lost = sorted(where.keys() ^ places.keys())
    if lost:
        raise FileError(f"{folder}: tensor {lost[0]!r} and {len(lost) - 1} more differ between index and shards")
    return Shards(folder, places)


def places_of(path: Path) -> dict[str, Place]:
    """{name: place} of one file. The header is checked by the safetensors library before it is trusted."""
    check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu"):
            pass
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path}: not a whole safetensors file ({error}); get it again") from error
    length, header = read_header(path)
    places = {}
    for name, said in header.items():
        if name != METADATA:
            begin, end = said["data_offsets"]
            places[name] = Place(path.name, said["dtype"], tuple(said["shape"]), 8 + length + begin, end - begin)
    for name, place in places.items():
        if place.dtype in _TYPES and math.prod(place.shape) * _TYPES[place.dtype].itemsize != place.size:
            raise FileError(f"{path}: {name!r} has {place.size} bytes for shape {place.shape}; get the file again")
    return places


def drop_metadata(path: Path, prefix: str) -> None:
    """Takes entries out of a file's metadata whose key begins so, the header keeping its length."""
    length, header = read_header(path)
    said = header.get(METADATA, {})
    if not any(key.startswith(prefix) for key in said):
        return
    header[METADATA] = {key: value for key, value in said.items() if not key.startswith(prefix)}
    write_header(path, length, header)


def _read_into(file: IO[bytes], view: memoryview) -> None:
    while view:
        count = file.readinto(view[: 1 << 30])  # type: ignore[attr-defined]  # a raw file has it
        if count == 0:
            raise OSError("the file ends early")
        view = view[count:]


def _write_from(file: IO[bytes], view: memoryview) -> None:
    while view:
        view = view[file.write(view[: 1 << 30]) :]
