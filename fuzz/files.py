"""Saved files that are damaged or lie: refused in no time and little memory, or read as what they were."""

import json
import math
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from bounds import bounded
from safetensors.torch import save_file
from test_fuzz import cut, flip, foreign, lie, own, same, tensors

from rarefy.formats import bitmask, read
from rarefy.formats.container import prepare, write
from rarefy.formats.packed import Packed

_FOLDER = Path(tempfile.mkdtemp(prefix="rarefy-fuzz-"))
_NUMBERS = (-1, 0, 1, 3, 7, 8, 40, 2**20, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
_TYPES = (torch.uint8, torch.int8, torch.int32, torch.int64, torch.float32, torch.float16, torch.bool, torch.complex64)


def case(rng: random.Random) -> None:
    rng.choice((_damaged, _damaged, _parts, _shards, _written))(rng)


def _read_bounded(path: Path, given: Path | None = None) -> Any:
    return bounded(lambda: read(given or path), path.stat().st_size)


def _damaged(rng: random.Random) -> None:
    path, make = _FOLDER / "m.safetensors", rng.choice((own, foreign))
    make(path)
    expected = tensors() | ({"tied.bias": tensors()["layer.bias"]} if make is own else {})
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2))):
        try:
            data = rng.choice((flip, cut, lie))(data, rng)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):  # was broken before
            break
    path.write_bytes(data)
    found = _read_bounded(path)
    if found is not None and make is own and b"rarefy.manifest" in data:
        assert same(found, expected), "a damaged file was read as something else"
    if found is not None:
        for tensor in found.values():
            if isinstance(tensor, Packed) and tensor.matrix.shape[0] * tensor.matrix.shape[1] < 10**7:
                tensor.to_dense()


def _odd(rng: random.Random) -> torch.Tensor:
    shape = [rng.choice((0, 1, 2, 5, 8, 40)) for _ in range(rng.randrange(4))]
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(rng.getrandbits(30))).to(
        rng.choice(_TYPES)
    )


def _parts(rng: random.Random) -> None:
    """The four parts of a sparse tensor, in memory and in a file, with lies that each alone looks possible."""
    shape = [rng.choice((0, 1, 3, 8, 9, 17, 40)) for _ in range(rng.randrange(1, 5))]
    dense = torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(30)))
    parts: dict[str, torch.Tensor] = bitmask.pack(Packed.from_dense(dense * (dense > 0), by_row=rng.random() < 0.5))
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(list(parts) or ["shape"])
        match rng.randrange(5):
            case 0:
                parts[name] = _odd(rng)
            case 1:
                parts.pop(name, None)
            case 2:
                parts["shape"] = torch.tensor(
                    [rng.choice(_NUMBERS) for _ in range(rng.randrange(5))], dtype=torch.int64
                )
            case 3 if name in parts and parts[name].numel():
                parts[name] = parts[name].clone()
                value = rng.choice(_NUMBERS) if parts[name].dtype == torch.int64 else rng.randrange(128)
                parts[name].view(-1)[rng.randrange(parts[name].numel())] = value
            case _:
                parts[name] = parts.get(name, torch.zeros(3)).reshape(-1)[: rng.randrange(9)].clone()
    size = sum(part.nbytes for part in parts.values())
    found = bounded(lambda: bitmask.unpack(parts), size)
    if found is not None:
        bounded(found.to_dense, size, more=8 * math.prod(found.shape))
    path = _FOLDER / "p.safetensors"
    save_file({f"a.{part}": tensor.contiguous() for part, tensor in parts.items()}, path)
    _read_bounded(path)


def _shards(rng: random.Random) -> None:
    """A folder with an index that may name anything."""
    folder = _FOLDER / "shards"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    whole = tensors()
    for i, (name, tensor) in enumerate(whole.items()):
        save_file({name: tensor}, folder / f"s{i}.safetensors")
    where: Any = {name: f"s{i}.safetensors" for i, name in enumerate(whole)}
    lies = ("../m.safetensors", "/etc/passwd", "", "s9.safetensors", 3, None, ["s0.safetensors"], "s0.safetensors")
    for _ in range(rng.choice((0, 1, 2))):
        where[rng.choice([*where, "other", ""])] = rng.choice(lies)
    raw: Any = rng.choice(({"weight_map": where}, {"weight_map": where}, {"weight_map": list(where)}, [where], {}, 5))
    text = json.dumps(raw)
    text = (
        text if rng.random() < 0.7 else rng.choice((text[: rng.randrange(len(text) + 1)], "[" * 10**5, "NaN", "\x00"))
    )
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    found = _read_bounded(index, folder)
    assert found is None or same(found, whole)


def _written(rng: random.Random) -> None:
    """Whatever is written comes back."""
    shape = [rng.choice((0, 1, 3, 16, 40)) for _ in range(rng.randrange(5))]
    dense = torch.randn(shape, generator=torch.Generator().manual_seed(rng.getrandbits(30))) * 9
    dense = (dense * (dense > rng.choice((-99, 0, 9, 99)))).to(rng.choice(_TYPES)) + 0
    path = _FOLDER / "w.safetensors"
    write(path, prepare({"a.weight": dense}))
    assert same(read(path), {"a.weight": dense})
