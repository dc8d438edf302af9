"""The records of a file that `torch.save` wrote: an ordinary archive whose parts are stored as they are."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.safe import size_of

LARGEST = 4 * 2**20
"""Bytes of the list of records: some forty thousand."""

_RECORD, _ENTRY, _END, _END64, _LOCATOR = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
_FULL = 0xFFFFFFFF  # a field of four bytes that is too small; the number follows in eight


@dataclass(frozen=True)
class Records:
    """The bytes of a file and where each record lies in them. held: `(size,)` uint8, a copy or mapped."""

    held: Tensor
    places: dict[str, tuple[int, int]]

    def bytes(self, name: str) -> Tensor:
        begin, size = self.places[name]
        return self.held[begin : begin + size]


def open_records(path: Path, *, mapped: bool = False) -> Records:
    """Every record by its name without the archive's folder. Raises FileError.

    Nothing is decompressed: torch.save stores its records plain, so one that is not would only hide how large it is.
    """
    try:
        size = size_of(path)
        with path.open("rb") as file:
            if file.read(4) != _RECORD:
                raise FileError(
                    f"{path}: is no archive of torch.save (torch 1.6 or later); read it there with torch.load(..., "
                    "weights_only=True) and save the tensors as safetensors"
                )
        raw = numpy.memmap(path, numpy.uint8, "c", 0, (size,)) if mapped and os.name != "nt" else _copied(path, size)
        return Records(torch.from_numpy(raw), dict(_places(raw.data)))
    except FileError:
        raise
    except (OSError, ValueError, struct.error) as error:
        raise FileError(f"{path}: not a whole archive of torch.save ({error}); get it again") from error


def _copied(path: Path, size: int) -> numpy.ndarray:
    raw = numpy.fromfile(path, numpy.uint8, size)
    if raw.size != size:
        raise ValueError("it became shorter while it was read")
    return raw


def _places(data: memoryview) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (begin, size)) of every record. Raises ValueError for anything that torch.save does not write."""
    names = set()
    for name, flags, packing, size, offset in _listed(data):
        if packing or flags & 1:
            raise ValueError(f"record {name!r} is compressed or locked")
        if name in names:
            raise ValueError(f"it holds the record {name!r} twice")
        names.add(name)
        if bytes(data[offset : offset + 4]) != _RECORD:
            raise ValueError(f"record {name!r} has no header")
        begin = offset + 30 + sum(struct.unpack_from("<2H", data, offset + 26))
        if begin + size > len(data):
            raise ValueError(f"record {name!r} lies outside the file")
        yield name, (begin, size)


def _listed(data: memoryview) -> Iterator[tuple[str, int, int, int, int]]:
    """(name without its folder, flags, packing, size, offset) from the list at the end."""
    place, length = _list_place(data)
    if length > LARGEST:
        raise ValueError(f"its list of records has {length} bytes (limit {LARGEST})")
    end = place + length
    while place < end:
        head = struct.unpack_from("<4s6H3L5H2L", data, place)
        flags, packing, packed, size, name_size, extra_size, note_size, offset = (*head[3:5], *head[8:13], head[16])
        if head[0] != _ENTRY:
            raise ValueError("its list of records is broken")
        names = bytes(data[place + 46 : place + 46 + name_size]).decode("utf-8")
        extra = place + 46 + name_size
        packed, size, offset = _wide([size, packed, offset], data[extra : extra + extra_size])
        if packed != size and not packing:
            raise ValueError(f"record {names!r} has two sizes")
        yield names.partition("/")[2], flags, packing, size, offset
        place = extra + extra_size + note_size


def _wide(values: list[int], extra: memoryview) -> tuple[int, int, int]:
    """(packed size, size, offset), with those that do not fit four bytes from the extra field of kind 1."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            values = [next(numbers, _FULL) if value == _FULL else value for value in values]
        extra = extra[4 + length :]
    size, packed, offset = values
    return packed, size, offset


def _list_place(data: memoryview) -> tuple[int, int]:
    """(offset, bytes) of the list of records. Torch writes no comment behind it."""
    end = len(data) - 22
    if end < 0 or bytes(data[end : end + 4]) != _END:
        raise ValueError("its end is missing")
    length, place = struct.unpack_from("<2L", data, end + 12)
    if end >= 20 and bytes(data[end - 20 : end - 16]) == _LOCATOR:
        (wide,) = struct.unpack_from("<Q", data, end - 12)
        if wide + 56 > len(data) or bytes(data[wide : wide + 4]) != _END64:
            raise ValueError("its end is broken")
        length, place = struct.unpack_from("<2Q", data, wide + 40)
    if place + length > len(data):
        raise ValueError("its list of records lies outside the file")
    return place, length
