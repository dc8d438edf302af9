"""An array that `numpy.save` wrote: numbers, as many as the file holds, never objects."""

import ast
import math
import struct
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.safe import size_of

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: "<H", 2: "<I"}  # of the header, by version; the third is for arrays of records
_LONGEST = 1024  # bytes of a header; numpy writes 118 for numbers


def read_npy(path: Path) -> Tensor:
    """The array of a .npy file. Raises FileError.

    numpy.load makes room for what the header says before it looks whether the file has it, and reads archives too.
    """
    try:
        size = size_of(path)
        with path.open("rb") as file:
            start = file.read(8)
            form = _LENGTHS.get(start[6]) if len(start) == 8 and start.startswith(_MAGIC) else None
            if form is None:
                raise ValueError("it does not begin as numpy.save writes it")
            (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
            if length > _LONGEST:
                raise ValueError(f"its header has {length} bytes (limit {_LONGEST})")
            kind, shape, order = _said(file.read(length))
            begin, count = file.tell(), math.prod(shape)
        if count * kind.itemsize > size - begin:
            raise ValueError(f"{kind} {shape} is more than the {size - begin} bytes that it holds")
        return torch.from_numpy(numpy.fromfile(path, kind, count, offset=begin).reshape(shape, order=order))
    except (OSError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError, struct.error) as error:
        raise FileError(f"{path}: is no array of numbers ({error})") from error


def _said(header: bytes) -> tuple[numpy.dtype[Any], tuple[int, ...], Any]:
    """(type, shape, order) that a header says."""
    found = ast.literal_eval(header.decode("latin1").strip())
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header says no type and shape")
    named, shape = found["descr"], found["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"its shape is {shape!r:.99}")
    kind = numpy.dtype(named) if isinstance(named, str) else None
    if kind is None or kind.kind not in "biufc":
        raise ValueError(f"its type is {named!r:.99}")
    return kind, shape, "F" if found["fortran_order"] else "C"
