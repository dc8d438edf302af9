"""The header of a safetensors file that was checked, read and rewritten where it stands."""

import json
import struct
from pathlib import Path
from typing import Any

from rarefy.core.errors import FileError

METADATA = "__metadata__"
"""The one key of a header that names no tensor."""


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """(bytes of the header, its JSON). Raises FileError for what is no object, or whose metadata are no texts."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        text = file.read(length)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: its header is no JSON ({error}); get the file again") from error
    metadata = found.get(METADATA, {}) if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileError(f"{path}: its header is none of a safetensors file; get it again")
    return length, found


def write_header(path: Path, length: int, header: dict[str, Any]) -> None:
    """Puts a header in the old one's place, filled up to its length with spaces, so that no tensor moves."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    if len(text) > length:
        raise FileError(f"{path}: a header of {len(text)} bytes does not fit into {length}; save the file anew")
    with path.open("r+b") as file:
        file.seek(8)
        file.write(text)
