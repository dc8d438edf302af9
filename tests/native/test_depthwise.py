"""The depthwise kernels of every instruction set, of floats and of words, against sums in float64."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ACTIVATION_SLACK, EPS, normal

from rarefy import ops
from rarefy.ops import Window, conv, conv8, native, packed_bytes
from rarefy.ops.conv_reference import ACTIVATIONS, activate
from rarefy.ops.depthwise import depthwise_candidates, is_depthwise
from rarefy.ops.words import Words, words_of

LEVELS = native.LEVELS[: native.LEVELS.index(ops.features()["isa"]) + 1] if ops.available() else ()
pytestmark = pytest.mark.skipif(not LEVELS, reason="the native module is not built")
FLOATS = [f"depthwise-{isa}" for isa in ("scalar", "avx2", "avx512") if isa in LEVELS]
WORDS = [f"depthwise8-{isa}" for isa in ("scalar", "avx2", "avx512", "vnni") if isa in LEVELS]
both = pytest.mark.parametrize("name", [*FLOATS, *WORDS])
SLACK = 16 * EPS  # of float32 roundings, relative to the terms of a result


def drawn(channels, seed=0):
    return torch.randn(channels, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def image(*shape, zero=7):
    made = words_of(torch.zeros(shape), (0.05, zero))
    return Words(torch.randint(0, 256, made.values.shape, dtype=torch.uint8), shape[1], made.scale, made.zero)


def exact(x, weight, window, bias, residual):
    x = x.floats() if isinstance(x, Words) else x
    residual = residual.floats() if isinstance(residual, Words) else residual
    sides = (window.stride, window.padding, window.dilation, window.groups)
    y = F.conv2d(x.double(), weight.double(), None, *sides)
    size = F.conv2d(x.double().abs(), weight.double().abs(), None, *sides)
    for term in (None if bias is None else bias.view(-1, 1, 1), residual):
        if term is not None:
            y, size = y + term.double(), size + term.double().abs()
    return y, size


def check(name, shape, window, bias=None, residual=False, activation="none", to=None):
    weight, out = drawn(shape[1]), (shape[0], shape[1], *window.out_size(shape[2:], (3, 3)))
    beside = normal(*out) if residual else None
    if name in FLOATS:
        x, packed = normal(*shape), ops.pack_conv(weight, window, name)
        got = torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, beside, activation)
    else:
        x, packed = image(*shape), conv8.pack_conv8(weight, window, name)
        beside = words_of(beside, (0.03, 90)) if residual and to is not None else beside
        got = packed.convolve(x, bias, beside, activation, to)
    before, size = exact(x, packed.to_dense(), window, bias, beside)
    wanted, bound = activate(before, activation), SLACK * size + ACTIVATION_SLACK
    if to is not None:
        wanted = (wanted / to[0] + to[1]).clamp(0, 255)
        bound, got = 0.5 + bound / to[0] + 1e-4, got.codes()
    assert got.shape == wanted.shape
    assert not got.numel() or float(((got.double() - wanted).abs() - bound).max()) <= 0


def window_of(channels, stride, padding=(1, 1)):
    return Window((stride, stride), padding, groups=channels)


@both
@pytest.mark.parametrize("stride", [1, 2])
def test_image_sizes_around_every_edge(name, stride):
    for high in (1, 2, 3, 4 * stride, 4 * stride + 1, 9):
        for wide in (1, 2, 7, 8, 9, 15, 16, 17, 18, 16 * stride + 1, 32 * stride + 3):
            check(name, (2, 3, high, wide), window_of(3, stride))


@both
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_and_channels(name, stride):
    for padding in ((0, 0), (0, 2), (3, 1)):
        for channels in (1, 4, 5, 35):
            check(name, (1, channels, 8, 21), window_of(channels, stride, padding), normal(channels))


@both
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_bias_and_residual(name, activation):
    for bias in (None, normal(6)):
        for residual in (False, True):
            check(name, (2, 6, 9, 19), window_of(6, 1), bias, residual, activation)
            if name in WORDS:
                check(name, (2, 6, 9, 19), window_of(6, 1), bias, residual, activation, to=(0.04, 60))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_image(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    name, channels = data.draw(st.sampled_from([*FLOATS, *WORDS])), draw(1, 20)
    window = window_of(channels, draw(1, 2), (draw(0, 3), draw(0, 3)))
    shape = (draw(0, 3), channels, draw(1, 30), draw(1, 40))
    if min(window.out_size(shape[2:], (3, 3))) < 1:
        return
    torch.set_num_threads(draw(1, 3))
    check(name, shape, window, normal(channels))


@pytest.mark.parametrize("name", WORDS)
def test_extremes_do_not_saturate(name):
    weight = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3).contiguous()
    for value in (0, 255):
        x = Words(
            torch.full((1, 1, 5, 5, 4), value, dtype=torch.uint8), 2, torch.ones(1), torch.tensor([255 - value]).int()
        )
        packed = conv8.pack_conv8(weight, window_of(2, 1), name)
        assert torch.equal(packed.convolve(x), F.conv2d(x.floats(), weight, None, 1, 1, 1, 2))


@both
def test_weights_survive_copies_and_files(name, tmp_path):
    weight, window = drawn(6), window_of(6, 2)
    weight[1, 0, 0] = 0.0
    pack, see = (ops.pack_conv, ops.see_conv) if name in FLOATS else (conv8.pack_conv8, conv8.see_conv8)
    packed = pack(weight, window, name)
    assert packed.nnz == int(packed.to_dense().count_nonzero()) <= 51
    torch.testing.assert_close(packed.to_dense(), weight, atol=0.02 if name in WORDS else 0.0, rtol=0.0)
    stored = packed_bytes(packed)
    (tmp_path / "packed").write_bytes(stored.numpy().tobytes())
    file = ops.map_file(tmp_path / "packed")
    seen = see(file, 0, stored.numel(), packed.shape, window, name)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), seen):
        assert torch.equal(twin.to_dense(), packed.to_dense()) and twin.window == window
    with pytest.raises(ValueError, match="another size"):
        see(file, 0, stored.numel(), packed.shape, window_of(6, 1), name)


def test_only_fitting_windows_are_taken():
    assert depthwise_candidates(drawn(6), window_of(6, 2), eight=False)[0] in FLOATS
    assert depthwise_candidates(drawn(6), window_of(6, 2), eight=True)[0] in WORDS
    for window in (
        Window((1, 2), groups=6),
        Window((3, 3), groups=6),
        Window(dilation=(2, 2), groups=6),
        Window(groups=3),
    ):
        assert not is_depthwise(drawn(6), window)
    assert not is_depthwise(torch.zeros(6, 1, 5, 5), window_of(6, 1))
    with pytest.raises(ValueError, match="3x3"):
        conv.pack_conv(torch.zeros(6, 1, 5, 5), window_of(6, 1), FLOATS[0])
