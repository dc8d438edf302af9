"""The file of packed weights: a head, the weights as `ops.packed_bytes` gives them, and an index behind them."""

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from rarefy.ops.mapped import ALIGNMENT

_HEAD = struct.Struct("<8sQ32s")  # magic, where the index begins, its sha256
_MAGIC = b"rarefyP1"
_LARGEST_INDEX = 64 << 20  # bytes


def write(file: BinaryIO, key: str, weights: Iterable[tuple[str, Tensor]], limit: float) -> None:
    """Writes (name, bytes) one after the other. Raises OSError when the file grows beyond `limit` bytes."""
    found: dict[str, list[int]] = {}
    at = file.write(bytes(_padded(_HEAD.size)))
    for name, weight in weights:
        found[name] = [at, weight.numel()]
        at += file.write(weight.numpy().data) + file.write(bytes(_padded(weight.numel()) - weight.numel()))
        if at > limit:
            raise OSError(f"packed weights take more than the {limit:.0f} bytes that they may (RAREFY_CACHE_GB)")
    index = json.dumps({"key": key, "weights": found}).encode()
    file.write(index)
    file.seek(0)
    file.write(_HEAD.pack(_MAGIC, at, hashlib.sha256(index).digest()))


def places(path: Path, key: str) -> dict[str, tuple[int, int]]:
    """{name: (where it begins, bytes)}. Raises OSError or ValueError for a file that is damaged or has another key.

    The weights themselves are not looked at: each has a checksum of its own.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise ValueError("it is cut off")
        magic, at, digest = _HEAD.unpack(head)
        end = file.seek(0, 2)
        if magic != _MAGIC or not _HEAD.size <= at < end or end - at > _LARGEST_INDEX:
            raise ValueError("it is cut off, or no file of packed weights")
        file.seek(at)
        index = file.read(end - at)
    if hashlib.sha256(index).digest() != digest:
        raise ValueError("it was altered")
    try:
        said = json.loads(index)
        whose = said["key"]
        found = {str(name): (int(start), int(nbytes)) for name, (start, nbytes) in said["weights"].items()}
    except (TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError("its index makes no sense") from error
    if whose != key:
        raise ValueError("it belongs to another model or machine")
    if not all(0 <= start <= end and 0 <= nbytes <= end for start, nbytes in found.values()):
        raise ValueError("a weight lies outside it")
    return found


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
