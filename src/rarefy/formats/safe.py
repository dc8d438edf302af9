"""Every tensor of one safetensors file, copied or mapped, or a FileError. The only place that opens weights."""

import os
import stat
import struct
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from rarefy.core.errors import FileError

MAX_HEADER = 32 * 2**20
"""Bytes. About a hundred thousand tensors; a larger header is an attack or needs shards."""
MAX_TENSORS = 200_000
"""In one file: each costs its reader about a kilobyte, whatever it holds."""


def read_stored(path: Path, *, mapped: bool = False) -> tuple[dict[str, str] | None, dict[str, Tensor]]:
    """(metadata, {stored name: tensor}) of a file. The tensors are copies: what was checked cannot change later.

    mapped: they are the file's own pages instead, shared by all processes that have it open; a write goes to a private
    copy. A file that is replaced (as `rarefy.save` does) keeps its old content here, but one that another program
    rewrites in place changes under its readers. On Windows, where a mapped file cannot be replaced, they are copies.
    """
    check_header(path)
    copied = not mapped or os.name == "nt"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata(), {name: _take(file, name, copied) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever the reader trips over, the file is at fault
        raise FileError(f"{path}: not a whole safetensors file ({error}); get it again or save it again") from error


def _take(file: Any, name: str, copied: bool) -> Tensor:
    tensor: Tensor = file.get_tensor(name)
    return tensor.clone() if copied else tensor


def size_of(path: Path) -> int:
    """Bytes of an ordinary file. OSError for what has no size: a pipe would never end, nor would a device."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no ordinary file")
    return found.st_size


def check_header(path: Path) -> None:
    try:
        size = size_of(path)
        with path.open("rb") as file:
            start = file.read(8)
            announced = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            said = file.read(announced) if announced <= min(size, MAX_HEADER) else b""
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}); give a saved file or folder") from error
    if len(start) < 8:
        raise FileError(f"{path}: {size} bytes are too few for a safetensors file; it is truncated, get it again")
    (header,) = struct.unpack("<Q", start)
    if header > min(size - 8, MAX_HEADER):
        raise FileError(
            f"{path}: it announces a header of {header} bytes, but holds {size - 8} (limit {MAX_HEADER}); "
            "it is truncated or not a safetensors file, get it again"
        )
    if said.count(b"{") > MAX_TENSORS or said.count(b",") > 16 * MAX_TENSORS:  # counted before anything is made of it
        raise FileError(f"{path}: its header names more than {MAX_TENSORS} tensors; save it in shards with an index")
