"""State dicts that `torch.save` wrote, read without unpickling: tensors from a fixed table, everything else skipped."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.held import Held
from rarefy.formats.opcodes import Call, Name, Persistent, follow
from rarefy.formats.torch_sparse import LAYOUTS, from_parts
from rarefy.formats.zipped import Records, open_records

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
_TYPES = {
    name: getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
_WITHIN = ("state_dict", "model_state_dict", "model", "module")
"""Where training programs keep the weights among other things."""
_NAMES = 64  # names that a tensor may have, if all had as many: layers that share everything
_SMALL = 2**20  # bytes that are never too many


def read_torch(path: Path, *, mapped: bool = False) -> dict[str, Tensor | Held]:
    """{name: tensor} of a state dict, or of the one in a checkpoint. Raises FileError.

    What is no tensor (an epoch, an optimizer, an object of some class) is left out; nothing in the file is called.
    """
    records = open_records(path, mapped=mapped)
    try:
        return _tensors(_root(records), _Source(records))
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def read_state(path: Path) -> Any:
    """All that a file of torch.save holds: dicts, lists, tuples, plain values and tensors. Raises FileError.

    A file with anything else in it is refused; nothing in it is called.
    """
    records = open_records(path)
    try:
        return _Plain(_Source(records)).of(_root(records))
    except RecursionError as error:
        raise FileError(f"{path}: its parts lie too deep in each other; get the file again") from error
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def _root(records: Records) -> Any:
    """What the archive's program would give."""
    if "data.pkl" not in records.places:
        raise FileError("it holds no data.pkl; it is no file of torch.save (a TorchScript archive, perhaps)")
    if "byteorder" in records.places and records.bytes("byteorder").numpy().tobytes() != b"little":
        raise FileError("it was written on a big-endian machine; read it there and save it as safetensors")
    return follow(records.bytes("data.pkl").numpy().tobytes())


@dataclass
class _Source:
    """The records, and what was seen of them: one tensor for each view, whatever number of names it has.

    A small file could else stand for thousands of large tensors that share their bytes, each of which costs its reader
    time, or a copy where a mask or an index has to be of another type. seen: bytes of all views; named: of all names.
    """

    records: Records
    views: dict[tuple[object, ...], Tensor] = field(default_factory=dict)
    seen: int = 0
    named: int = 0

    def view(self, raw: Tensor, kind: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], at: int) -> Tensor:
        """The entries of a record (bytes, on a whole entry) from the one numbered `at`."""
        key = (raw.storage_offset(), kind, shape, strides, at)
        if key not in self.views:
            whole = raw[: raw.numel() // kind.itemsize * kind.itemsize].view(kind)
            self.views[key] = whole.as_strided(shape, strides, whole.storage_offset() + at)
            self.seen += self.views[key].nbytes
        self.named += self.views[key].nbytes
        held = self.records.held.numel()
        if self.seen > 2 * held + _SMALL or self.named > _NAMES * held + _SMALL:
            raise FileError("its tensors share their bytes too many times; save copies of them, as safetensors")
        return self.views[key]


class _Plain:
    """A tree of records as plain things. What stands in several places is made once, or it could grow without end."""

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.made: dict[int, Any] = {}

    def of(self, node: Any) -> Any:
        if not isinstance(node, dict | list | tuple | Call | Name | Persistent):
            return node
        if id(node) not in self.made:
            self.made[id(node)] = None  # of itself, a thing holds nothing
            self.made[id(node)] = self._new(node)
        return self.made[id(node)]

    def _new(self, node: Any) -> Any:
        if isinstance(node, dict):
            return {key: self.of(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(map(self.of, node))
        if isinstance(node, Call) and node.what == Name("collections", "OrderedDict"):
            return self.of(node.entries)
        found = _tensor(node, self.source, "of the state")
        if isinstance(found, Tensor):
            return found
        raise FileError(f"it holds {getattr(node, 'what', node)!r:.99}, which is neither plain nor a tensor")


def _tensors(root: Any, source: _Source) -> dict[str, Tensor | Held]:
    """Tensors of the dict that stands under a usual name, else of the outermost."""
    for within in (*_WITHIN, None):
        entries = _entries(root if within is None else _entries(root).get(within))
        found = {name: _tensor(entry, source, name) for name, entry in entries.items() if isinstance(name, str)}
        held = {name: tensor for name, tensor in found.items() if tensor is not None}
        if held:
            return held
    raise FileError(f"it holds no tensors by name (neither itself nor in one of {_WITHIN}); save a state dict")


def _entries(node: Any) -> dict[Any, Any]:
    if isinstance(node, Call):
        return node.entries if node.what == Name("collections", "OrderedDict") else {}
    return node if isinstance(node, dict) else {}


def _tensor(node: Any, source: _Source, name: str) -> Tensor | Held | None:
    """The tensor that a call would make, None if it would make none."""
    if not isinstance(node, Call) or not isinstance(node.what, Name) or not isinstance(node.args, tuple):
        return None
    what, args = node.what, node.args
    if what.module != "torch._utils":
        return None
    if what.name in ("_rebuild_parameter", "_rebuild_parameter_with_state") and args:
        return _dense(args[0], source, name)
    if what.name == "_rebuild_sparse_tensor" and len(args) == 2:
        return _sparse(*args, source, name)
    found = _dense(node, source, name)
    _require(found is not None or not what.name.startswith("_rebuild"), name, f"{what.name} makes no tensor read here")
    return found


def _dense(node: Any, source: _Source, name: str) -> Tensor | None:
    """The same for the calls that make a strided tensor."""
    if not isinstance(node, Call) or not isinstance(node.what, Name) or not isinstance(node.args, tuple):
        return None
    what, args = node.what, node.args
    if what in (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor")) and len(args) >= 4:
        return _strided(args[0], args[1:4], None, source, name)
    if what == Name("torch._utils", "_rebuild_tensor_v3") and len(args) >= 7:
        return _strided(args[0], args[1:4], args[6], source, name)
    return None


def _sparse(layout: Any, data: Any, source: _Source, name: str) -> Held:
    known = isinstance(layout, Call) and layout.what == Name("torch.serialization", "_get_layout")
    said = layout.args[0] if known and isinstance(layout.args, tuple) and layout.args else None
    count = 1 if said == "torch.sparse_coo" else 2
    whole = said in LAYOUTS and isinstance(data, tuple) and len(data) in (count + 2, count + 3)
    _require(whole, name, "its sparse layout makes no sense")
    parts = [_dense(part, source, name) for part in data[: count + 1]]
    _require(all(isinstance(part, Tensor) for part in parts), name, "its indices or values are no tensors")
    *indices, values = parts
    return from_parts(said, tuple(indices), values, _sizes(data[count + 1], name), name)  # type: ignore[arg-type]


def _strided(storage: Any, view: tuple[Any, ...], dtype: Any, source: _Source, name: str) -> Tensor:
    """A view of a record. Checked against the record's bytes: what the program says of them is not trusted."""
    offset, size, stride = view
    raw, kind = _storage(storage, source.records, name)
    if dtype is not None:
        known = isinstance(dtype, Name) and dtype.module == "torch" and dtype.name in _TYPES
        _require(known, name, "its type is none that is read here")
        kind = _TYPES[dtype.name]
    shape, strides = _sizes(size, name), _sizes(stride, name)
    _require(type(offset) is int and offset >= 0 and len(shape) == len(strides), name, "its view makes no sense")
    if 0 in shape:
        return torch.empty(shape, dtype=kind)
    have = raw.numel() // kind.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    fits = last < have and math.prod(shape) <= have
    _require(fits, name, f"a view of {shape} has only {have} entries behind it")
    whole = int(raw.storage_offset()) % kind.itemsize == 0
    _require(whole, name, "its record does not begin where torch.save lets records begin")
    return source.view(raw, kind, shape, strides, offset)


def _storage(node: Any, records: Records, name: str) -> tuple[Tensor, torch.dtype]:
    said: Any = node.said if isinstance(node, Persistent) else None
    _require(isinstance(said, tuple) and len(said) >= 5 and said[0] == "storage", name, "it has no storage")
    kind, key = said[1], said[2]
    known = isinstance(kind, Name) and kind.module in ("torch", "torch.storage") and kind.name in _STORAGES
    _require(known and isinstance(key, str), name, "its storage is none that is read here")
    place = f"data/{key}"
    _require(place in records.places, name, f"its record {place!r} is missing")
    return records.bytes(place), _STORAGES[kind.name]


def _sizes(node: Any, name: str) -> tuple[int, ...]:
    if isinstance(node, Call) and node.what == Name("torch", "Size") and isinstance(node.args, tuple) and node.args:
        node = node.args[0]
    whole = isinstance(node, tuple) and len(node) <= 8 and all(type(n) is int and 0 <= n < 2**48 for n in node)
    _require(whole and math.prod(max(1, n) for n in node) < 2**60, name, "its shape makes no sense")
    return tuple(node)


def _require(holds: bool, name: str, why: str) -> None:
    if not holds:
        raise FileError(f"tensor {name!r}: {why}; the file is damaged or was not written by torch.save, get it again")
