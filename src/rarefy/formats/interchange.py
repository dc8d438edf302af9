"""A model's tensors written for other programs: compressed-tensors' sparse layouts or plain dense, in shards."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.core.registry import lookup
from rarefy.formats.atomic import replace_file, write_text
from rarefy.formats.folder import INDEX, WEIGHTS
from rarefy.formats.names import join
from rarefy.formats.packed import VALUE_TYPES, Packed
from rarefy.formats.safe_write import write_stored

LAYOUTS = ("dense", "sparse-bitmask", "sparse-24-bitmask")
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Written:
    """sparse: {weight: fraction of stored zeros} of those in the layout; files: of weights; tensor_bytes: of all."""

    layout: str
    sparse: Mapping[str, float]
    files: tuple[str, ...]
    tensor_bytes: int


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    layout: str = "sparse-bitmask",
    targets: Collection[str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Writes model.safetensors, or shards of at most `shard_bytes` with an index, that other programs read.

    Only matrices whose names end in `.weight` are stored sparse, under the short names that compressed-tensors uses
    from 0.9 on. targets: which of them; None means each that becomes smaller (for `sparse-24-bitmask`: and is 2:4).
    Nothing is ever pruned to fit: a target that is not 2:4 raises FileError. A single tensor may be larger than a
    shard. Tensors that share memory are written once for each name.
    """
    if layout not in LAYOUTS:
        raise FileError(f"write_tensors: there is no layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    stored: dict[str, Tensor] = {}
    sparse: dict[str, float] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        wanted = layout != "dense" and (name in targets if targets is not None else True)
        parts = _parts(name, plain, layout, must=targets is not None) if wanted else None
        if parts is None:
            memory = plain.untyped_storage()
            stored[name] = plain.clone() if memory.nbytes() != plain.nbytes or memory.data_ptr() in held else plain
            held.add(memory.data_ptr())
            continue
        sparse[name] = float(plain.eq(0).sum()) / plain.numel()
        named = {join(name.removesuffix("weight").removesuffix("."), part): value for part, value in parts.items()}
        if taken := sorted(named.keys() & (tensors.keys() | stored.keys())):
            raise FileError(f"write_tensors: {taken[0]!r} is a tensor of the model and would be a part of {name!r}")
        stored |= named
    files = _write(folder, _shards(stored, shard_bytes))
    return Written(layout, sparse, files, sum(tensor.nbytes for tensor in stored.values()))


def _parts(name: str, tensor: Tensor, layout: str, *, must: bool) -> dict[str, Tensor] | None:
    """The parts of a matrix, None where it stays dense."""
    last = name.rpartition(".")[2]
    if tensor.dim() != 2 or last != "weight" or tensor.dtype not in VALUE_TYPES or not tensor.numel():
        if must:
            raise FileError(f"write_tensors: {name!r} {tuple(tensor.shape)} is no matrix of a layer's `.weight`")
        return None
    form = lookup("format", layout).factory()
    if not must and form.fits(tensor.ne(0)) is not None:
        return None
    parts: dict[str, Tensor] = form.pack(Packed.from_dense(tensor).matrix)
    return parts if must or sum(part.nbytes for part in parts.values()) < tensor.nbytes else None


def _shards(stored: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """The tensors in order, as many to a shard as fit."""
    shards: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in stored.items():
        if shards[-1] and held + tensor.nbytes > most:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += tensor.nbytes
    return shards


def _write(folder: Path, shards: Sequence[dict[str, Tensor]]) -> tuple[str, ...]:
    """The files' names. What an earlier write left under the other name goes last, so that one is always whole."""
    count = len(shards)
    names = [WEIGHTS] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for name, shard in zip(names, shards, strict=True):
        replace_file(folder / name, partial(write_stored, tensors=shard, metadata={"format": "pt"}))
    if count > 1:
        where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        size = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        said = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        write_text(folder / INDEX, json.dumps(said, indent=2) + "\n")
    with suppress(FileNotFoundError):
        (folder / (INDEX if count == 1 else WEIGHTS)).unlink()
    return tuple(names)
