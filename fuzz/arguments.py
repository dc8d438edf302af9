"""Arguments that nobody should pass, to every door of rarefy.ops: refused before native code is entered, or right.

Only that nothing breaks is checked, and that what is said is an error of ours: results are the other targets' matter.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from draw import refusals, seeded, threads
from guard import guarded
from torch import Tensor

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.ops import Window, conv_across, conv_kernels
from rarefy.ops.attention import attention8
from rarefy.ops.conv_reference import ACTIVATIONS as CONV_ACTIVATIONS

_SIZES = (0, 1, 2, 3, 8, 16, 17, 33)
_INTS = (-(2**31), -7, -1, 0, 1, 2, 3, 16, 255, 2**31 - 1, 2**31, 2**40)
_FLOATS = (0.0, -1.0, 1e-5, 1.0, float("nan"), float("inf"), 1e-45, 3e38)


_without_memory: list[int] = []  # of this case: torch traces such calls and refuses them in words of its own


def _tensor(rng: random.Random, shape: tuple[int, ...]) -> Tensor:
    """Mostly a fine tensor of the shape; else one of another shape, type, layout, device or stride."""
    if rng.random() < 0.3:
        shape = tuple(rng.choice((n, n, rng.choice(_SIZES))) for n in shape)
    if rng.random() < 0.15:
        shape = rng.choice((shape[1:], (1, *shape), (), shape[::-1]))
    x = guarded(torch.randn(shape, generator=seeded(rng)))
    if rng.random() < 0.7:
        return x
    if rng.random() < 0.07:
        _without_memory.append(1)
        return x.to("meta")
    wide = torch.randn([*shape, 2], generator=seeded(rng))
    twice = torch.randn([2 * n for n in shape], generator=seeded(rng))
    return rng.choice((
        lambda: x.double(), lambda: x.half(), lambda: x.int(), lambda: x > 0,
        lambda: x.to_sparse(), lambda: torch.complex(x, x).conj().imag, lambda: wide[..., 0],
        lambda: twice[tuple(slice(None, None, 2) for _ in shape)],
        lambda: x[:1].expand(shape) if shape and shape[0] else x,
        lambda: x.transpose(0, -1) if x.dim() > 1 else x, lambda: x.requires_grad_(),
        lambda: torch.full(shape, float("nan")),
    ))()  # fmt: skip


def _index(rng: random.Random, shape: tuple[int, ...], most: int) -> Tensor:
    x = _tensor(rng, shape)
    if x.dtype != torch.float32 or x.device.type == "meta" or x.layout != torch.strided:
        return x
    kind = rng.choice((torch.int32, torch.int64))
    x = (x.detach().nan_to_num(0).abs() * most).long() % max(1, most)
    if rng.random() < 0.3 and x.numel():
        x = x.contiguous()
        x.view(-1)[rng.randrange(x.numel())] = rng.choice((-1, most, 2**31 - 1, -(2**31), 2**62, -(2**63)))
    return guarded(x.to(kind))


def _number(rng: random.Random, fine: int) -> int:
    return fine if rng.random() < 0.7 else rng.choice(_INTS)


def _float(rng: random.Random, fine: float) -> float:
    return fine if rng.random() < 0.7 else rng.choice(_FLOATS)


def _or_none(rng: random.Random, make: Callable[[], Any]) -> Any:
    return None if rng.random() < 0.3 else make()


def case(rng: random.Random) -> None:
    threads(rng)
    door = rng.choice((_pack, _linear, _csr, _attention, _norm, _pool, _conv, _across, _bytes))
    _without_memory.clear()
    try:
        with refusals():
            _touch(door(rng))
    except (RuntimeError, ValueError, IndexError):
        if not _without_memory:
            raise


def _touch(result: Any) -> None:
    """Reads what came, so that memory that is not there is found."""
    for x in result if isinstance(result, tuple) else (result,):
        if isinstance(x, Tensor) and x.device.type == "cpu":
            assert x.numel() < 2**28 or _without_memory
            if _without_memory:  # a shape for tracing, with nothing in it
                continue
            x.double().sum()


def _pack(rng: random.Random) -> Any:
    shape = (rng.choice(_SIZES), rng.choice(_SIZES))
    kernel = rng.choice((None, "", "reference", "spmm", *(k.name for k in ops.kernels())))
    scale = _or_none(rng, lambda: (_float(rng, 0.1), _number(rng, 7)))
    weight: Any = _tensor(rng, shape)
    if rng.random() < 0.5:
        bits = rng.choice((8, 8, 4, 4, 0, 3))
        codes = _tensor(rng, shape)
        codes = (codes * 200).to(torch.int8) if codes.device.type == "cpu" and rng.random() < 0.8 else codes
        weight = QuantizedWeight(
            codes, _tensor(rng, (shape[0], rng.choice((0, 1, 1, 2, 3, max(1, shape[1] // 16))))), bits
        )
    packed = ops.pack(weight, kernel, input_scale=scale)
    return packed.to_dense(), torch.ops.rarefy.packed_linear(
        torch.randn(3, packed.shape[1]), packed.handle, None, "none", packed.shape[0]
    )


def _linear(rng: random.Random) -> Any:
    out, width = rng.choice(_SIZES), rng.choice(_SIZES)
    weight: Any = torch.randn(out, width, generator=seeded(rng))
    packed, kernel = None, rng.choice(ops.kernels())
    with suppress(ValueError):
        bits = {"int8": 8, "int4": 4}.get(kernel.weights)
        packed = ops.pack(weight if bits is None else quantize_weight(weight, bits), kernel.name)
    handle = _number(rng, -5 if packed is None else packed.handle)
    lead = rng.choice(((3,), (2, 3), (), (0,), (17,)))
    x, bias = _tensor(rng, (*lead, width)), _or_none(rng, lambda: _tensor(rng, (out,)))
    act = rng.choice((*ops.ACTIVATIONS, "", "softmax"))
    if rng.random() < 0.2:
        return torch.ops.rarefy.packed_input_grad(_tensor(rng, (*lead, out)), handle, _number(rng, width))
    return torch.ops.rarefy.packed_linear(x, handle, bias, act, _number(rng, out))


def _csr(rng: random.Random) -> Any:
    out, width, entries, tokens = (rng.choice(_SIZES) for _ in range(4))
    offsets = torch.linspace(0, entries, out + 1).long()
    offsets = offsets if rng.random() < 0.6 else _index(rng, (out + 1,), entries)
    columns, values = _index(rng, (entries,), width), _tensor(rng, (entries,))
    x, grad = _tensor(rng, (tokens, width)), _tensor(rng, (tokens, out))
    what = rng.randrange(3)
    if what == 0:
        bias = _or_none(rng, lambda: _tensor(rng, (out,)))
        return torch.ops.rarefy.csr_linear(x, values, columns, offsets, bias, _number(rng, out))
    if what == 1:
        return torch.ops.rarefy.csr_input_grad(grad, values, columns, offsets, _number(rng, width))
    return torch.ops.rarefy.sddmm(grad, x, columns, offsets)


def _attention(rng: random.Random) -> Any:
    batch, heads, queries, keys, depth = (rng.choice(_SIZES[:7]) for _ in range(5))
    q, k = _tensor(rng, (batch, heads, queries, depth)), _tensor(rng, (batch, heads, keys, depth))
    v = _tensor(rng, (batch, heads, keys, depth))
    mask = _or_none(rng, lambda: _tensor(rng, (batch, rng.choice((1, heads)), rng.choice((1, queries)), keys)))
    if mask is not None and mask.device.type == "cpu" and mask.layout == torch.strided and rng.random() < 0.5:
        mask = mask > 0
    return rng.choice((torch.ops.rarefy.attention, attention8))(q, k, v, mask, _float(rng, 0.3))


def _norm(rng: random.Random) -> Any:
    features = rng.choice(_SIZES)
    shape = (rng.choice(_SIZES), rng.choice(_SIZES), features)
    x, residual = _tensor(rng, shape), _or_none(rng, lambda: _tensor(rng, rng.choice((shape, shape[1:], shape[2:]))))
    weight, bias = _tensor(rng, (features,)), _or_none(rng, lambda: _tensor(rng, (features,)))
    return torch.ops.rarefy.add_layer_norm(x, residual, weight, bias, _float(rng, 1e-5))


def _pair(rng: random.Random, *fine: int) -> tuple[int, int]:
    return _number(rng, rng.choice(fine)), _number(rng, rng.choice(fine))


def _window(rng: random.Random) -> Window:
    return Window(_pair(rng, 1, 2), _pair(rng, 0, 1, 3), _pair(rng, 1, 2), _number(rng, rng.choice((1, 2))))


def _pool(rng: random.Random) -> Any:
    x = _tensor(rng, (rng.choice((0, 1, 2)), 2, rng.choice(_SIZES), rng.choice(_SIZES)))
    sides = [_pair(rng, *fine) for fine in ((1, 2, 3), (1, 2), (0, 1), (1, 2))]
    lists = [list(side) if rng.random() < 0.9 else rng.choice(([], [2], [1, 2, 3])) for side in sides]
    return torch.ops.rarefy.max_pool2d(x, *lists, rng.random() < 0.3)


def _packed_conv(rng: random.Random, across: bool = False) -> tuple[Any, tuple[int, ...]]:
    groups, kernel = rng.choice((1, 1, 2)), (rng.choice((1, 3)), rng.choice((1, 3, 5)))
    shape = (groups * rng.choice((0, 1, 2, 9)), rng.choice((0, 1, 4)), *kernel)
    window = _window(rng)
    name = rng.choice((None, "", "reference", *(k.name for k in conv_kernels.kernels())))
    return ops.pack_conv(_tensor(rng, shape), window, name, across=across), shape


def _conv(rng: random.Random) -> Any:
    packed, _ = _packed_conv(rng)
    x = _tensor(
        rng, (rng.choice((0, 1, 2)), packed.shape[1] * packed.window.groups, rng.choice(_SIZES), rng.choice(_SIZES))
    )
    out = (2, 2, 2, 2)
    with suppress(Exception):
        out = packed.out_shape(x.shape)
    more = _or_none(rng, lambda: _tensor(rng, out)) if max(out) < 50 and min(out) >= 0 else None
    bias = _or_none(rng, lambda: _tensor(rng, (packed.shape[0],)))
    act = rng.choice((*CONV_ACTIVATIONS, "", "tanh"))
    return packed.to_dense(), torch.ops.rarefy.packed_conv2d(x, _number(rng, packed.handle), bias, more, act)


def _across(rng: random.Random) -> Any:
    packed, _ = _packed_conv(rng, across=True)
    x = _tensor(
        rng, (rng.choice((0, 1, 5)), packed.shape[1] * packed.window.groups, rng.choice(_SIZES), rng.choice(_SIZES))
    )
    turned = conv_across.to_across(x)
    if rng.random() < 0.2:
        turned = _tensor(rng, tuple(turned.shape))
    bias = _or_none(rng, lambda: _tensor(rng, (packed.shape[0],)))
    y = conv_across.convolve_across(packed, turned, bias, None, rng.choice(("none", "relu", "")))
    return conv_across.from_across(y, _number(rng, x.shape[0]))


def _bytes(rng: random.Random) -> Any:
    return torch.ops.rarefy.quantize_rows(_tensor(rng, rng.choice(((3, 17), (17,), (2, 0), (0, 5), (2, 3, 16), ()))))
