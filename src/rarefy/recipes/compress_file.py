"""Files of tensors that come back bit for bit: what is zero takes a bit, and sums tell whether all is as it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.atomic import replace_file
from rarefy.formats.container import prepare, read_file
from rarefy.formats.held import Held
from rarefy.formats.packed import VALUE_TYPES, as_integers
from rarefy.formats.safe_write import write_stored

_EXACT, _EQUAL, _SAID = "bits", "value", "said"
_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in VALUE_TYPES | {torch.bool, torch.complex64}}


@dataclass(frozen=True)
class Kept:
    """What a file holds. fingerprint: equal for files of equal content; said: JSON data, as given.

    held: {(whether bit for bit, name): (stored tensor, its type)}.
    """

    fingerprint: str
    said: Any
    held: Mapping[tuple[bool, str], tuple[Tensor | Held, torch.dtype]]

    def exact(self) -> dict[str, Tensor]:
        """{name: dense tensor} of what came back bit for bit."""
        return self._of(True)

    def equal(self) -> dict[str, Tensor]:
        return self._of(False)

    def _of(self, exact: bool) -> dict[str, Tensor]:
        found = {name: entry for (kind, name), entry in self.held.items() if kind == exact}
        return {n: (t if isinstance(t, Tensor) else t.to_dense()).view(dtype) for n, (t, dtype) in found.items()}


def write_kept(
    path: Path, exact: Mapping[str, Tensor], equal: Mapping[str, Tensor] | None = None, said: Any = None
) -> str:
    """Replaces a file; gives its fingerprint. exact: come back bit for bit; equal: their -0.0 may come back as +0.0.

    said: plain JSON data. The bytes need not be on the disk on return: after a power cut the file may be damaged, which
    its sums tell. Raises FileError.
    """
    tensors = {_SAID: torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)}
    tensors |= {_key(_EXACT, name, value): as_integers(value.detach()) for name, value in exact.items()}
    tensors |= {_key(_EQUAL, name, value): value.detach() for name, value in (equal or {}).items()}
    prepared = prepare(_apart(tensors))
    write = partial(write_stored, tensors=prepared.parts, metadata=prepared.metadata)
    replace_file(path, write, durable=False)
    return prepared.metadata["rarefy.digest"]


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, copied where two lie in one storage: safetensors refuses that."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def _key(kind: str, name: str, value: Tensor) -> str:
    return f"{kind}:{str(value.dtype).removeprefix('torch.')}:{name}"


def read_kept(path: Path) -> Kept:
    """The file, checked whole. Raises FileError."""
    contents = read_file(path, mapped=True)
    said, held = contents.tensors.get(_SAID), {}
    try:
        if contents.fingerprint is None or not isinstance(said, Tensor):
            raise ValueError
        for key, tensor in contents.tensors.items():
            if key != _SAID:
                kind, dtype, name = key.split(":", 2)
                held[{_EXACT: True, _EQUAL: False}[kind], name] = tensor, _TYPES[dtype]
        return Kept(contents.fingerprint, json.loads(said.numpy().tobytes()), held)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FileError(f"{path}: was not written by this version of rarefy") from None
