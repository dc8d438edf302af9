"""Packed weights in mapped files: damaged, cut, asked for as another kernel or size; refused, or seen as they were.

Damage is random: the bytes' own checksum is not made anew, which would be a forgery and not an accident.
"""

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from draw import normal, refusals, size, support
from guard import guarded

from rarefy import ops
from rarefy.core.quantized import quantize_weight
from rarefy.ops import Window, conv_kernels

_FOLDER = Path(tempfile.mkdtemp(prefix="rarefy-fuzz-"))


def case(rng: random.Random) -> None:
    (_linear if rng.random() < 0.75 else _conv)(rng)


def _file(rng: random.Random, raw: torch.Tensor) -> tuple[Any, int, int, bool]:
    """(mapping, where the weight begins, its bytes, whether all is as it was written)"""
    data, before, count = bytearray(raw.numpy().tobytes()), 64 * rng.randrange(4), raw.numel()
    whole = True
    for _ in range(rng.choice((0, 1, 1, 3))):
        data[rng.randrange(256 if rng.random() < 0.5 else len(data)) % len(data)] ^= 1 << rng.randrange(8)
        whole = bytes(data) == raw.numpy().tobytes()
    if rng.random() < 0.2:
        data, whole = data[: rng.randrange(len(data))], False
    path = _FOLDER / "weights"
    path.unlink(missing_ok=True)  # others may still see the old one
    path.write_bytes(bytes(before) + data)
    at = before if rng.random() < 0.85 else rng.choice((0, before + 1, before + 64, 2**31, 2**62, 2**64 - 64))
    asked = count if rng.random() < 0.85 else rng.choice((0, 1, 63, 64, 128, count - 64, count + 64, 2**40, 2**64 - 64))
    return ops.map_file(path), at, asked, whole and at == before and asked == count


def _linear(rng: random.Random) -> None:
    kernel, out, width = rng.choice(ops.kernels()), size(rng, 100), size(rng, 300)
    weight: Any = guarded(normal(rng, out, width) * support(rng, out, width))
    bits = {"int8": 8, "int4": 4}.get(kernel.weights)
    packed = seen = None
    with refusals():
        packed = ops.pack(weight if bits is None else quantize_weight(weight, bits), kernel.name)
    if packed is None:
        return
    file, at, count, whole = _file(rng, ops.packed_bytes(packed))
    shape, name = packed.shape, kernel.name
    if rng.random() < 0.2:
        name, whole = rng.choice([k.name for k in ops.kernels() if k.name != name]), False
    if rng.random() < 0.2:
        shape, whole = (shape[0] + rng.choice((-1, 1, 2**20)), shape[1]), False
    with refusals():
        seen = ops.see(file, at, count, shape, name)
    assert (seen is not None) == whole, f"{kernel.name}: {'refused' if whole else 'taken'}"
    if seen is None:
        return
    x = normal(rng, size(rng, 70), width)
    assert torch.equal(seen.to_dense(), packed.to_dense())
    assert torch.equal(seen.multiply(x, None, "none"), packed.multiply(x, None, "none"))


def _conv(rng: random.Random) -> None:
    window, shape = (
        Window((rng.randint(1, 2), 1), (1, 0), (1, rng.randint(1, 2))),
        (size(rng, 20, 1), size(rng, 9, 1), 3, 2),
    )
    weight = normal(rng, *shape) * support(rng, shape[0], shape[1] * 6).view(shape)
    name, seen = rng.choice(conv_kernels.kernels()).name, None
    packed = ops.pack_conv(weight, window, name)
    file, at, count, whole = _file(rng, ops.packed_bytes(packed))
    if rng.random() < 0.2:
        window, whole = Window((rng.randint(3, 5), 1), (1, 0)), False
    with refusals():
        seen = ops.see_conv(file, at, count, shape, window, name)
    assert (seen is not None) == whole, f"{name}: {'refused' if whole else 'taken'}"
    assert seen is None or torch.equal(seen.to_dense(), packed.to_dense())
