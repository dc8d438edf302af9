"""Packed weights in mapped files: damaged, cut, asked for as another kernel or size; refused, or seen as they were.

Damage is random: the bytes' own checksum is not made anew, which would be a forgery and not an accident.
"""

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from draw import normal, refusals, size, support
from guard import guarded, outputs

from rarefy import ops
from rarefy.core.quantized import quantize_weight
from rarefy.engine.conv_choices import WantedConv
from rarefy.ops import Window, conv8, conv_kernels
from rarefy.ops.conv_across import convolve_across, to_across
from rarefy.ops.depthwise import depthwise_candidates
from rarefy.ops.words import words_of

_FOLDER = Path(tempfile.mkdtemp(prefix="rarefy-fuzz-"))


def case(rng: random.Random) -> None:
    (_linear if rng.random() < 0.6 else _conv)(rng)


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
    """A convolution for any kernel of floats or bytes, of images side by side or across, as a saved model has them."""
    kind, across = rng.choice(("floats", "bytes", "depthwise", "depthwise8", "across", "filtered")), False
    window, shape = (
        Window((rng.randint(1, 2), 1), (1, 0), (1, rng.randint(1, 2))),
        (size(rng, 20, 1), size(rng, 9, 1), 3, 2),
    )
    if kind.startswith("depthwise"):
        shape = (size(rng, 40, 1), 1, 3, 3)
        window = Window(rng.choice(((1, 1), (2, 2))), (1, 1), (1, 1), shape[0])
    weight = normal(rng, *shape) * support(rng, shape[0], shape[1] * shape[2] * shape[3]).view(shape)
    if kind.startswith("depthwise"):
        names = depthwise_candidates(weight, window, eight=kind == "depthwise8")
    elif kind == "filtered":
        window, shape, across = Window((1, 1), (1, 1)), (*shape[:2], 3, 3), True
        weight, names = normal(rng, *shape), conv_kernels.filters_across(shape, window)
    else:
        across = kind == "across"
        floats = conv_kernels.kernels_across() if across else [k.name for k in conv_kernels.kernels()]
        names = [k.name for k in conv8.kernels()] if kind == "bytes" else floats
    if not names:  # of this instruction set
        return
    packed = seen = None
    wanted = WantedConv("", rng.choice(names), shape, window, lambda: guarded(weight), across=across)
    with refusals():
        packed = wanted.packed()
    if packed is None:
        return
    file, at, count, whole = _file(rng, ops.packed_bytes(packed))
    asked = wanted
    if rng.random() < 0.3:
        asked, whole = _another(rng, wanted, names), False
    with refusals():
        seen = asked.seen(file, at, count)
    assert (seen is not None) == whole, f"{asked.kernel}: {'refused' if whole else 'taken'}"
    if seen is None:
        return
    assert torch.equal(seen.to_dense(), packed.to_dense())
    x = normal(rng, size(rng, 4, 1), shape[1] * window.groups, size(rng, 12, 4), size(rng, 20, 4))
    with outputs():
        assert torch.equal(_result(seen, x), _result(packed, x))


def _another(rng: random.Random, wanted: WantedConv, names: list[str]) -> WantedConv:
    """What the file does not hold."""
    out, into, *kernel = wanted.shape
    others = [name for name in names if name != wanted.kernel]
    ways: list[dict[str, Any]] = [
        {"shape": (out + rng.choice((1, 2**20)), into, *kernel)},
        {"shape": (out, into + rng.choice((1, 7, 2**20)), *kernel)},
        {"window": replace(wanted.window, stride=(rng.randint(3, 5), 1))},
    ]
    if others:
        ways.append({"kernel": rng.choice(others)})
    return replace(wanted, **rng.choice(ways))


def _result(packed: Any, x: torch.Tensor) -> torch.Tensor:
    if isinstance(packed, conv8.PackedConv8):
        out = packed.convolve(words_of(x, (0.05, 128)))
        assert isinstance(out, torch.Tensor)
        return out
    return (
        convolve_across(packed, to_across(x), None, None, "none")
        if packed.across
        else packed.convolve(x, None, None, "none")
    )
