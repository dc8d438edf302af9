"""Every tensor of one safetensors file, copied out of it, or a FileError. The only place that opens weights."""

import struct
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from rarefy.core.errors import FileError

MAX_HEADER = 32 * 2**20
"""Bytes. About a hundred thousand tensors; a larger header is an attack or needs shards."""


def read_stored(path: Path) -> tuple[dict[str, str] | None, dict[str, Tensor]]:
    """(metadata, {stored name: tensor}) of a file. The tensors are copies: what was checked cannot change later."""
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever the reader trips over, the file is at fault
        raise FileError(f"{path}: not a whole safetensors file ({error}); get it again or save it again") from error


def _check_header(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
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
