"""Convolutions in floats and in bytes, pooled ones, images across the lanes, and pooling: any window on any image."""

import random

import torch
import torch.nn.functional as F
from draw import normal, refusals, size, spoil, support, threads
from guard import guarded, outputs
from oracle import ACTIVATION_SLACK, EPS
from torch import Tensor

from rarefy import ops
from rarefy.ops import Pool, Window, conv8, conv_across, conv_kernels
from rarefy.ops.conv_reference import ACTIVATIONS, activate
from rarefy.ops.depthwise import depthwise_candidates
from rarefy.ops.words import largest, words_of


def case(rng: random.Random) -> None:
    rng.choice((_convolution, _convolution, _eight, _eight, _pooled, _across, _filtered, _pool))(rng)


def _pair(rng: random.Random, low: int, high: int) -> tuple[int, int]:
    return rng.randint(low, high), rng.randint(low, high)


def _problem(rng: random.Random) -> tuple[Tensor, Window, Tensor, Tensor] | None:
    """weight, window, x, bias; None where the image is smaller than the window."""
    groups, kernel = rng.choice((1, 1, 2, 3, 8)), rng.choice(((1, 1), (3, 3), _pair(rng, 1, 5)))
    window = Window(_pair(rng, 1, 3), _pair(rng, 0, 4), _pair(rng, 1, 3), groups)
    image = (size(rng, 30, 1), size(rng, 40, 1))
    if min(window.out_size(image, kernel)) < 1:
        return None
    out, into = groups * size(rng, 20, 1), size(rng, 24, 1)
    mask = support(rng, out, into * kernel[0] * kernel[1]).view(out, into, *kernel)
    weight = guarded(normal(rng, out, into, *kernel) * mask)
    return weight, window, normal(rng, rng.randint(0, 3), groups * into, *image), normal(rng, out)


def _check(got: Tensor, x: Tensor, weight: Tensor, window: Window, bias: Tensor, more: Tensor | None, act: str) -> None:
    sides = (window.stride, window.padding, window.dilation, window.groups)
    before = F.conv2d(x.double(), weight.double(), bias.double(), *sides)
    total = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), *sides)
    if more is not None:
        before, total = before + more.double(), total + more.double().abs()
    terms = (weight != 0).flatten(1).sum(1)[:, None, None] + 3
    bound = 3 * EPS * terms * total + ACTIVATION_SLACK + 4 * EPS * total
    error = (got.double() - activate(before, act)).abs()
    assert got.shape == before.shape and not (error > bound).any() and not got.isnan().any(), f"error {error.max():.3e}"


def _convolution(rng: random.Random) -> None:
    made = _problem(rng)
    if made is None:
        return
    weight, window, x, bias = made
    act = rng.choice(ACTIVATIONS)
    threads(rng)
    packed = None
    with refusals(), outputs():
        packed = ops.pack_conv(weight, window, rng.choice([k.name for k in conv_kernels.kernels()]))
    if packed is None:
        return
    assert torch.equal(packed.to_dense(), weight)
    more = normal(rng, *packed.out_shape(x.shape)) if rng.random() < 0.3 else None
    with outputs():
        _check(torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, more, act), x, weight, window, bias, more, act)
        if rng.random() < 0.3:  # only that nothing breaks: which pixels NaN reaches, tests/native says
            spoil(rng, x)
            torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, more, act)


def _eight(rng: random.Random) -> None:
    made = _problem(rng)
    if made is None:
        return
    weight, window, x, bias = made
    threads(rng)
    names = [k.name for k in conv8.kernels()]
    packed, scale = None, rng.choice((None, (0.03, rng.randint(0, 255))))
    with refusals(), outputs():
        own = depthwise_candidates(weight, window, eight=True)
        packed = conv8.pack_conv8(weight, window, rng.choice([*names, *own * len(names)]))
    if packed is None:
        return
    act, to = rng.choice(ACTIVATIONS), rng.choice((None, (0.05, rng.randint(0, 255))))
    with outputs():
        words = words_of(x, scale)
        more = normal(rng, *packed.out_shape(x.shape)) if rng.random() < 0.3 else None
        beside = more if more is None or to is None else words_of(more, (0.04, 99))
        got = packed.convolve(words, bias, beside, act, to)
        more = more if to is None or more is None else beside.floats()
    if to is None:
        _check(got, words.floats(), packed.to_dense(), window, bias, more, act)
        return
    plain = packed.convolve(words, bias, more, act)
    wanted = (plain.double() / to[0] + to[1]).clamp(0, 255)
    assert not ((got.codes() - wanted).abs() > 0.501 + 1e-6 * wanted).any()
    pool = _pool_of(rng)
    want = _torch_pool(got.codes().float(), pool)
    if want is not None:
        with outputs():
            # A dilated window may hold no pixel: bytes have no infinity below them, their least code stands for it.
            assert torch.equal(largest(got, pool).codes().float(), want.clamp_min(0.0))


def _pool_of(rng: random.Random) -> Pool:
    kernel = _pair(rng, 1, 5)
    padding = (rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2))
    return Pool(kernel, _pair(rng, 1, 4), padding, _pair(rng, 1, 2), rng.random() < 0.5)


def _torch_pool(x: Tensor, pool: Pool) -> Tensor | None:
    try:
        return F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil)
    except RuntimeError:  # the image is smaller than the window
        return None


def _pooled(rng: random.Random) -> None:
    made = _problem(rng)
    if made is None:
        return
    weight, window, x, bias = made
    pool, plain = _pool_of(rng), None
    with refusals(), outputs():
        packed = ops.pack_conv(weight, window, rng.choice([k.name for k in conv_kernels.kernels()]))
        plain = torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, None, "relu")
    want = None if plain is None else _torch_pool(plain, pool)
    if want is None:
        return
    threads(rng)
    with outputs():
        got = packed.convolve_pooled(x, bias, "relu", pool)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def _pool(rng: random.Random) -> None:
    x, pool = normal(rng, rng.randint(0, 3), rng.randint(1, 4), size(rng, 40, 1), size(rng, 70, 1)), _pool_of(rng)
    spoil(rng, x)
    want = _torch_pool(x, pool)
    if want is None:
        return
    threads(rng)
    with outputs():
        got = torch.ops.rarefy.max_pool2d(x, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil)
    assert torch.equal(_normal(got), _normal(want))


def _normal(x: Tensor) -> Tensor:
    """Denormals as zero, NaN as a number that compares."""
    return torch.where(x.abs() < torch.finfo(torch.float32).tiny, 0.0, x).nan_to_num(7e7)


def _across(rng: random.Random) -> None:
    made = _problem(rng)
    if made is None or made[2].shape[0] == 0:
        return
    weight, window, x, bias = made
    packed, threads_ = None, threads(rng)
    with refusals(), outputs():
        packed = ops.pack_conv(weight, window, rng.choice(conv_kernels.kernels_across()), across=True)
    if packed is None:
        return
    act = rng.choice(ACTIVATIONS)
    with outputs():
        turned = conv_across.to_across(x)
        assert torch.equal(conv_across.from_across(turned, x.shape[0]), x), threads_
        got = conv_across.from_across(conv_across.convolve_across(packed, turned, bias, None, act), x.shape[0])
    _check(got, x, weight, window, bias, None, act)


def _filtered(rng: random.Random) -> None:
    kernel = rng.choice([k for k in conv_kernels.winograd_kernels() if k.isa == conv_kernels.best_isa()] or [None])
    if kernel is None:  # without the native module
        return
    stride = _pair(rng, 1, 3)
    sides = [rng.randint((kernel.taps - 1) * s + 1, kernel.taps * s) for s in stride]
    weight = guarded(normal(rng, rng.randint(1, 20), rng.randint(1, 12), *sides))
    window, image = Window(stride, _pair(rng, 0, 4)), (size(rng, 60, 1), size(rng, 70, 1))
    if min(window.out_size(image, sides)) < 1:
        return
    x, bias, act = (
        normal(rng, rng.randint(1, 18), weight.shape[1], *image),
        normal(rng, weight.shape[0]),
        rng.choice(ACTIVATIONS),
    )
    threads(rng)
    with outputs():
        packed = ops.pack_conv(weight, window, kernel.name, across=True)
        assert torch.equal(packed.to_dense(), weight)
        turned = conv_across.to_across(x)
        whole = conv_across.convolve_across(packed, turned, bias, None, act)
        got = conv_across.from_across(whole, x.shape[0])
    before = F.conv2d(x.double(), weight.double(), bias.double(), window.stride, window.padding)
    largest = float(x.abs().max() * weight.flatten(1).abs().sum(1).max()) + 1.0
    assert float((got.double() - activate(before, act)).abs().max()) < 200 * EPS * largest + ACTIVATION_SLACK
    pool = _pool_of(rng)
    pool = Pool(pool.kernel, pool.stride, pool.padding, (1, 1), pool.ceil)
    if min(pool.out_shape(got.shape)[2:]) < 1:
        return
    with outputs():
        pooled = conv_across.from_across(conv_across.pooled_across(packed, turned, bias, act, pool), x.shape[0])
    assert torch.equal(_normal(pooled), _normal(pool.largest(got)))
