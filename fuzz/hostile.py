"""Hostile files of every layout and everything that lies beside weights: thousands a second of computing.

Accidents in the bytes, lies in headers and indexes, and forgeries, whose checksums are made anew so that only the
checks behind them stand. Each is refused with an error of ours or read, at the cost that `bounds` allows, and what was
read is used: a claim that passes the reader may not break what comes after it.
"""

import hashlib
import json
import math
import pickletools
import random
import struct
from functools import cache
from pathlib import Path
from typing import Any

import corpus
import torch
from bounds import bounded
from damage import NUMBERS, damaged, lied, text
from torch import Tensor

from rarefy.core.errors import RarefyError
from rarefy.formats import read
from rarefy.formats.adapters import Delta, merge
from rarefy.formats.folder import read_contents
from rarefy.formats.manifest import Manifest, digest
from rarefy.formats.shards import open_shards
from rarefy.recipes.store_resize import resize
from rarefy.recipes.store_state import fill

_FOLDER = corpus.folder()
_DENSE = 2**20  # entries; larger claims are not made dense here
_NAMES = {
    torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64", torch.float32: "F32",
    torch.float16: "F16", torch.bool: "BOOL", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3",
    torch.uint16: "U16", torch.bfloat16: "BF16",
}  # fmt: skip


def case(rng: random.Random) -> None:
    rng.choices((_bytes, _header, _forged, _widths, _archive, _program, _shards), (4, 4, 4, 2, 3, 2, 2))[0](rng)


def put(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.unlink(missing_ok=True)  # what was mapped keeps its pages
    path.write_bytes(data)
    return path


def use(found: Any) -> None:
    """Makes dense what is small enough."""
    for entry in (found or {}).values():
        if math.prod(entry.shape) < _DENSE:
            try:
                dense = entry if isinstance(entry, Tensor) else entry.to_dense()
                assert tuple(dense.shape) == tuple(entry.shape) or isinstance(entry, Delta)
            except RarefyError as error:
                assert str(error)


def _kind(rng: random.Random) -> str:
    return "own" if rng.random() < 0.4 else rng.choice(list(corpus.foreign()))


def _good(kind: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """(stored tensors, metadata) of a safetensors file."""
    if kind == "own":
        prepared = corpus.own()
        return dict(prepared.parts), dict(prepared.metadata)
    return dict(corpus.foreign()[kind]), None


@cache
def _whole(kind: str) -> bytes:
    return written(*_good(kind))


def written(parts: dict[str, Tensor], metadata: dict[str, str] | None) -> bytes:
    """A safetensors file, as the library writes it; its checks of the tensors would take most of the time here."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data, at = [], 0
    for name, tensor in parts.items():
        held = tensor.contiguous()
        data.append(held.reshape(-1).view(torch.uint8).numpy().tobytes())
        place = [at, at := at + len(data[-1])]
        header[name] = {"dtype": _NAMES[held.dtype], "shape": list(held.shape), "data_offsets": place}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    return struct.pack("<Q", len(said)) + said + b"".join(data)


def _open(data: bytes, rng: random.Random) -> None:
    """Reads a safetensors file by one of the doors."""
    door = rng.randrange(5)
    path = put("adapter_model.safetensors" if door == 4 else "model.safetensors", data)
    if door == 0:
        use(bounded(lambda: read_contents(path, mapped=True).tensors, len(data)))
    elif door == 1:
        _streamed(len(data))
    elif door == 2:
        _filled(path, len(data))
    elif door == 4:
        _adapter(path, data, rng)
    else:
        use(bounded(lambda: read(path), len(data)))


def _streamed(size: int) -> None:
    """As `prune_folder` reads: places first, then one tensor at a time."""
    shards = bounded(lambda: open_shards(_FOLDER), size)
    names = [] if shards is None else list(shards.places)
    for copied, mapped in bounded(lambda: [(shards.read(name), shards.mapped(name)) for name in names], size) or ():
        assert torch.equal(copied.reshape(-1).view(torch.uint8), mapped.reshape(-1).view(torch.uint8))


def _filled(path: Path, size: int) -> None:
    model = corpus.network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if bounded(lambda: fill(model, read_contents(path, mapped=True), path) or True, size) is None:
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def _adapter(path: Path, data: bytes, rng: random.Random) -> None:
    said = text(lied(rng.choice(corpus.adapter_configs()), rng), rng)
    config = put("adapter_config.json", said)
    try:
        found = bounded(lambda: read(path), len(data) + len(said))
        deltas = {name: entry for name, entry in (found or {}).items() if isinstance(entry, Delta)}
        if deltas:
            bounded(lambda: merge({"a.weight": torch.randn(8, 20)}, deltas), len(data))
    finally:
        config.unlink()


def _bytes(rng: random.Random) -> None:
    _open(damaged(_whole(_kind(rng)), rng), rng)


def _header(rng: random.Random) -> None:
    """The header's JSON lies, or is repeated, deep or very long; the data stay."""
    data = _whole(_kind(rng))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    said = text(lied(header, rng), rng) if rng.random() < 0.9 else _doubled(header, rng)
    _open(struct.pack("<Q", len(said)) + said + data[8 + length :], rng)


def _doubled(header: dict[str, Any], rng: random.Random) -> bytes:
    """A tensor that stands in the header twice, with another shape, place or type."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    again = json.dumps(name) + ": " + json.dumps(lied(header[name], rng))
    return ("{" + again + ", " + json.dumps(header)[1:]).encode("utf-8", "surrogatepass")


def _odd(rng: random.Random) -> Tensor:
    shape = [rng.choice((0, 1, 2, 5, 8, 20, 40)) for _ in range(rng.randrange(4))]
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(rng.getrandbits(30))).to(
        rng.choice(list(_NAMES))
    )


def _forged(rng: random.Random) -> None:
    """Tensors that lie about each other, under a manifest that agrees with them."""
    parts, metadata = _good(_kind(rng))
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(list(parts))
        kind = rng.randrange(5)
        if kind == 0:
            parts[name] = _odd(rng)
        elif kind == 1 and len(parts) > 1:
            del parts[name]
        elif kind == 2:
            other = rng.choice(list(parts))
            parts[name], parts[other] = parts[other], parts[name]
        elif parts[name].numel():
            parts[name] = _altered(parts[name], rng)
    if metadata is not None:
        metadata = _signed(metadata, parts, rng)
    _open(written(parts, metadata), rng)


def _altered(tensor: Tensor, rng: random.Random) -> Tensor:
    """One entry is another, or the shape is."""
    tensor = tensor.contiguous().clone()
    if rng.random() < 0.2:
        return tensor.reshape(rng.choice(((-1,), (1, -1), (-1, 1), (1, *tensor.shape), (*tensor.shape, 1))))
    flat, place = tensor.view(-1), rng.randrange(tensor.numel())
    if tensor.dtype == torch.int64:
        flat[place] = (rng.choice(NUMBERS) + 2**63) % 2**64 - 2**63
    else:
        flat.view(torch.uint8)[place * tensor.element_size() % flat.nbytes] = rng.randrange(256)
    return tensor


def _signed(metadata: dict[str, str], parts: dict[str, Tensor], rng: random.Random) -> dict[str, str]:
    """A manifest with right sums, which may lie in what it says of them."""
    said = json.loads(metadata["rarefy.manifest"])
    said["digests"] = {name: digest(name, tensor) for name, tensor in parts.items()}
    if rng.random() < 0.4:
        maps = {key: value for key, value in said.items() if key != "digests"}
        said = {"digests": said["digests"], **lied(maps, rng)}
    try:
        return Manifest(**said).to_metadata()
    except (TypeError, ValueError, AttributeError):  # no such manifest can be written
        return metadata


def _widths(rng: random.Random) -> None:
    """A manifest that lies of the shapes and counts of a model's modules; a model is resized by what passes."""
    prepared = corpus.narrower()
    said = json.loads(prepared.metadata["rarefy.manifest"])
    said |= lied({key: said[key] for key in ("resized", "counts")}, rng)
    signed = json.dumps(said)
    metadata = {"rarefy.layout": "1", "rarefy.manifest": signed}
    metadata["rarefy.digest"] = hashlib.sha256(signed.encode()).hexdigest()
    data = written(dict(prepared.parts), metadata)
    path, model = put("widths.safetensors", data), corpus.network()
    if bounded(lambda: resize(model, read_contents(path, mapped=True), path) or True, len(data)) is None:
        return
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    held = {name: tuple(tensor.shape) for name, tensor in prepared.parts.items()}
    assert shapes.keys() == held.keys() and all(shapes[name] == held[name] for name in said["resized"])


def _archive(rng: random.Random) -> None:
    data = damaged(rng.choice(corpus.archives()), rng)
    path = put("a.pt", data)
    mapped = rng.random() < 0.3
    use(bounded(lambda: read_contents(path, mapped=mapped).tensors, len(data)))


@cache
def _instructions(archive: bytes) -> tuple[int, list[tuple[int, str, Any]]]:
    """(where the pickle begins, its instructions: place in it, name, argument)."""
    begin = archive.index(b"\x80\x02")
    return begin, [(place or 0, op.name, arg) for op, arg, place in pickletools.genops(archive[begin:])]


def _program(rng: random.Random) -> None:
    """The pickle says other numbers, names or texts, of the same length; or its instructions are others."""
    whole = rng.choice(corpus.archives())
    data, (begin, instructions) = bytearray(whole), _instructions(whole)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, name, arg = rng.choice(instructions)
        at = begin + place
        if name == "BININT1":
            data[at + 1] = rng.choice((0, 1, 2, 7, 127, 128, 255))
        elif name == "BININT2":
            data[at + 1 : at + 3] = struct.pack("<H", rng.choice((0, 1, 255, 2**15, 2**16 - 1)))
        elif name == "BININT":
            data[at + 1 : at + 5] = struct.pack("<i", rng.choice((0, -1, 1, 2**31 - 1, -(2**31))))
        elif name == "BINUNICODE" and arg:
            data[at + 5 + rng.randrange(len(arg.encode()))] = rng.choice(b"0/.a\xff\n_")
        elif name in ("BINGET", "BINPUT"):
            data[at + 1] = rng.randrange(60)
        else:
            data[at] = rng.choice(b"()]}Ntsuaeb.Q\x85\x86\x87\x88\x89RK0")
    path = put("p.pt", bytes(data))
    use(bounded(lambda: read(path), len(data)))


def _shards(rng: random.Random) -> None:
    """A folder whose index lies, or one of whose files does."""
    kind = rng.choice(("safetensors", "bin"))
    files = dict(corpus.shards(kind))
    index = next(name for name in files if name.endswith(".json"))
    if rng.random() < 0.7:
        files[index] = text(lied(json.loads(files[index]), rng), rng)
    else:
        name = rng.choice(list(files))
        files[name] = damaged(files[name], rng)
    place = _FOLDER / kind
    place.mkdir(exist_ok=True)
    for name, data in files.items():
        put(f"{kind}/{name}", data)
    size = sum(map(len, files.values()))
    if kind == "bin" or rng.random() < 0.7:
        use(bounded(lambda: read(place), size))
    else:
        bounded(lambda: open_shards(place), size)
