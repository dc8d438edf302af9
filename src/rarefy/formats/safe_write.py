"""A safetensors file whose bytes depend on its content alone."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.header import METADATA, read_header, write_header


def write_stored(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a file, the keys of its metadata sorted.

    safetensors orders the tensors, but leaves the metadata in the order of a hash table that differs from call to call.
    """
    if METADATA in tensors:
        raise FileError(f"{path}: no tensor of a safetensors file may be called {METADATA!r}; rename it")
    save_file(dict(tensors), path, metadata=dict(metadata))
    if len(metadata) > 1:
        length, header = read_header(path)
        write_header(path, length, header | {METADATA: dict(sorted(header[METADATA].items()))})
