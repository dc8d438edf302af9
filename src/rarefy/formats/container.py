"""One safetensors file of dense and sparse tensors: written whole or not at all, read only if it is right."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialized
from torch import Tensor

from rarefy.core.errors import DTypeError, FileError
from rarefy.formats import bitmask, manifest
from rarefy.formats.atomic import replace_file
from rarefy.formats.codes import PARTS as CODE_PARTS
from rarefy.formats.codes import Codes
from rarefy.formats.codes import pack as pack_codes
from rarefy.formats.codes import unpack as unpack_codes
from rarefy.formats.held import Held
from rarefy.formats.layouts import recognised
from rarefy.formats.manifest import Manifest
from rarefy.formats.names import choose_prefix, join
from rarefy.formats.packed import VALUE_TYPES, Packed, as_integers
from rarefy.formats.safe import read_stored
from rarefy.formats.safe_write import write_stored

_DENSE_TYPES = VALUE_TYPES | {
    *(torch.bool, torch.complex64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
}
NAMING_BYTES = 700  # what three more header entries and digests cost; smaller tensors stay dense


@dataclass(frozen=True)
class Stored:
    """How one tensor was written.

    prefix: what the names of its parts begin with (its own name if dense); zeros counts +0.0 and -0.0;
    negative_zeros counts those that became +0.0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    prefix: str
    zeros: int
    negative_zeros: int
    dense_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Widths:
    """Where a model is not as its config says: {tensor: shape} and {module: {attribute: integer}}."""

    resized: Mapping[str, Sequence[int]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """What a file holds. aliases: {tied name: name that holds the tensor}; own: whether rarefy wrote it.

    fingerprint: of all that it holds, None where the file does not say it; widths: see there.
    """

    tensors: Mapping[str, Tensor | Held]
    aliases: Mapping[str, str]
    own: bool
    fingerprint: str | None = None
    widths: Widths = field(default_factory=Widths)


@dataclass(frozen=True)
class Prepared:
    """What will be written: the stored tensors, the metadata, and a record of each tensor."""

    parts: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    stored: tuple[Stored, ...]


def prepare(
    tensors: Mapping[str, Tensor],
    aliases: Mapping[str, str] | None = None,
    codes: Mapping[str, Codes] | None = None,
    widths: Widths | None = None,
) -> Prepared:
    """Lays tensors out for a file, each sparse where that is smaller and dense otherwise.

    codes: the integers of tensors that lie on a grid, which are stored in their place. widths: where the model is not
    as its config says. A tensor stored sparse or so comes back equal, its -0.0 as +0.0; one stored dense bit for bit.
    Raises DTypeError for a type that the file format does not have.
    """
    parts: dict[str, Tensor] = {}
    sparse: dict[str, str] = {}
    integers: dict[str, str] = {}
    records = []
    for name, tensor in tensors.items():
        if tensor.dtype not in _DENSE_TYPES:
            raise DTypeError(f"tensor {name!r}: safetensors has no {tensor.dtype}; convert it before saving")
        dense = tensor.detach().cpu().contiguous()
        encoding, prefix, stored = _laid_out(name, dense, (codes or {}).get(name), tensors.keys() | parts.keys())
        if encoding == "sparse-bitmask":
            sparse[name] = prefix
        elif encoding != "dense":
            integers[name] = prefix
        parts |= stored
        records.append(_record(name, dense, stored, encoding, prefix))
    digests = {name: manifest.digest(name, tensor) for name, tensor in parts.items()}
    said = widths or Widths()
    made = Manifest(sparse, dict(aliases or {}), digests, integers, said.resized, said.counts)
    return Prepared(parts, made.to_metadata(), tuple(records))


def _laid_out(
    name: str, dense: Tensor, codes: Codes | None, taken: Collection[str]
) -> tuple[str, str, dict[str, Tensor]]:
    """(encoding, prefix of its parts, the parts by their names) of one tensor."""
    if codes is not None:
        prefix = choose_prefix(name, taken, CODE_PARTS)
        if prefix is not None:
            found = {join(prefix, part): value for part, value in pack_codes(codes).items()}
            return f"int{codes.quantized.bits}", prefix, found
    packed = _pack_if_smaller(dense)
    prefix = choose_prefix(name, taken) if packed else None
    if packed and prefix is not None:
        return "sparse-bitmask", prefix, {join(prefix, part): value for part, value in packed.items()}
    return "dense", name, {name: dense}


def file_bytes(prepared: Prepared) -> int:
    """How large the file will be, its header with it."""
    return len(serialized(dict(prepared.parts), metadata=dict(prepared.metadata)))


def write(path: Path, prepared: Prepared) -> None:
    """Writes the file: whole, or not at all."""
    replace_file(path, partial(write_stored, tensors=prepared.parts, metadata=prepared.metadata))


def read_file(path: Path, *, mapped: bool = False) -> Contents:
    """The contents of one file, own or of another program that writes the same layouts. Raises FileError.

    mapped: tensors are views of the file, see `safe.read_stored`.
    """
    metadata, stored = read_stored(path, mapped=mapped)
    said = manifest.from_metadata(metadata, path, len(stored))
    if said is None:
        return Contents(unpack_stored(stored, path), {}, own=False)
    manifest.check(said, stored, path)
    try:
        tensors = _unpack(stored, said.sparse, said.codes)
        manifest.check_shapes(said, tensors)
        widths = Widths(said.resized, said.counts)
        return Contents(tensors, said.aliases, True, manifest.fingerprint(metadata), widths)
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def unpack_stored(
    stored: Mapping[str, Tensor | Held], path: Path, adapter: Mapping[str, Any] | None = None
) -> dict[str, Tensor | Held]:
    """Tensors of a file that says nothing about itself; the sparse ones are recognised by their parts."""
    try:
        return recognised(stored, adapter)
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def _unpack(
    stored: Mapping[str, Tensor], sparse: Mapping[str, str], codes: Mapping[str, str]
) -> dict[str, Tensor | Held]:
    used = set(Manifest(sparse, codes=codes).parts)
    tensors: dict[str, Tensor | Held] = {name: tensor for name, tensor in stored.items() if name not in used}
    for name, prefix in sparse.items():
        tensors[name] = bitmask.unpack({part: stored[join(prefix, part)] for part in bitmask.PARTS}, name)
    for name, prefix in codes.items():
        tensors[name] = unpack_codes({part: stored[join(prefix, part)] for part in CODE_PARTS}, name)
    return tensors


def _pack_if_smaller(dense: Tensor) -> dict[str, Tensor] | None:
    """The parts of a tensor if they take fewer bytes than the tensor, counted before anything is packed."""
    if dense.dtype not in VALUE_TYPES or dense.dim() < 2 or dense.nbytes <= NAMING_BYTES:
        return None
    rows = dense.shape[0]
    bits = rows * ((dense.numel() // rows + 7) // 8)
    kept = int(dense.ne(0).count_nonzero())
    if kept * dense.element_size() + bits + 8 * (rows + dense.dim()) + NAMING_BYTES >= dense.nbytes:
        return None
    return bitmask.pack(Packed.from_dense(dense))


def _record(name: str, dense: Tensor, stored: Mapping[str, Tensor], encoding: str, prefix: str) -> Stored:
    zero = dense.eq(0)
    signed = zero & as_integers(dense).ne(0) if encoding != "dense" else None  # zero, not all bits
    return Stored(
        name=name,
        shape=tuple(dense.shape),
        dtype=str(dense.dtype).removeprefix("torch."),
        encoding=encoding,
        prefix=prefix,
        zeros=int(zero.count_nonzero()),
        negative_zeros=0 if signed is None else int(signed.count_nonzero()),
        dense_bytes=dense.nbytes,
        file_bytes=sum(tensor.nbytes for tensor in stored.values()),
    )
