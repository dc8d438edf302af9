"""Every 8-bit convolution kernel of every instruction set that this CPU has, against exact sums."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ACTIVATION_SLACK, EPS, normal

from rarefy import ops
from rarefy.core.errors import DTypeError, ShapeError, UnknownNameError
from rarefy.ops import Pool, Window, conv8, packed_bytes
from rarefy.ops.conv_reference import ACTIVATIONS, activate
from rarefy.ops.words import Words, largest, words_of

KERNELS = {k.name: k for k in conv8.kernels()}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)
SLACK = 8 * EPS  # of float32 roundings (of stored scales, of a result), relative to the terms it is made of


def weights(*shape, density=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * (torch.rand(*shape, generator=generator) < density)


def image(*shape, scale=(0.05, 7)):
    """Random bytes; those beyond the last channel are the largest, which must count for nothing."""
    made, channels = words_of(torch.zeros(shape), scale), shape[1]
    values = torch.randint(0, 256, made.values.shape, dtype=torch.uint8)
    if channels % 4:
        values[:, -1, :, :, channels % 4 :] = 255
    return Words(values, channels, made.scale, made.zero)


def exact(packed, x, bias, residual):
    """The sum before the activation in float64, and the size of the terms that make it."""
    scale, zero = (t.double().view(-1, 1, 1, 1) for t in (x.scale, x.zero))
    sides = (packed.window.stride, packed.window.padding, packed.window.dilation, packed.window.groups)
    weight, values = packed.to_dense().double(), x.codes().double() - zero
    y = F.conv2d(values, weight, None, *sides) * scale
    size = F.conv2d(values.abs(), weight.abs(), None, *sides) * scale
    for term in (bias if bias is None else bias.view(-1, 1, 1), residual):
        if term is not None:
            term = term.floats() if isinstance(term, Words) else term
            y, size = y + term.double(), size + term.double().abs()
    return y, size


def check(name, x, weight, window=Window(), bias=None, residual=None, activation="none", to=None):
    packed = conv8.pack_conv8(weight, window, name)
    got = packed.convolve(x, bias, residual, activation, to)
    before, size = exact(packed, x, bias, residual)
    wanted, bound = activate(before, activation), SLACK * size + ACTIVATION_SLACK
    if to is not None:
        assert (got.scale.tolist(), got.zero.tolist()) == ([pytest.approx(to[0])], [to[1]])
        wanted = (wanted / to[0] + to[1]).clamp(0, 255)
        bound, got = 0.5 + bound / to[0] + 1e-4, got.codes()
    assert got.shape == wanted.shape
    if got.numel():
        assert float(((got.double() - wanted).abs() - bound).max()) <= 0


@every_kernel
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_image_sizes_around_every_tile_edge(name, stride):
    rows, lanes = KERNELS[name].pixels, 16
    weight, window = weights(5, 6, 3, 3), Window((stride, stride), (1, 1))
    for high in (1, stride * rows - 1, stride * rows, stride * rows + 1):
        for wide in (1, 3, 4, 5, 8, 9, stride * lanes - 1, stride * lanes, stride * lanes + 1):
            check(name, image(2, 6, high, wide), weight, window, to=(0.1, 3))


@every_kernel
def test_channel_counts_around_every_word_group_and_band(name):
    for out in (1, 2, 3, 4, 5, 63, 64, 65, 129):
        weight = weights(out, 4, 3, 3, seed=out)
        check(name, image(1, 4, 9, 9), weight, Window(padding=(1, 1)), normal(out))
        check(name, image(1, 4, 9, 9), weight, Window(padding=(1, 1)), normal(out), to=(0.05, 120))
    for into in (1, 3, 17, 80):
        check(name, image(1, into, 6, 20), weights(6, into, 3, 3, seed=into), Window(padding=(1, 1)))


@every_kernel
def test_pixels_of_a_pointwise_window_are_one_long_line(name):
    for high, wide in ((1, 1), (7, 7), (4, 4), (3, 5), (13, 11)):
        check(name, image(3, 20, high, wide), weights(9, 20, 1, 1), bias=normal(9), to=(0.1, 128))


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_densities_and_empty_channels(name, density):
    weight = weights(40, 12, 3, 3, density=density)
    weight[3], weight[:, 5] = 0, 0
    check(name, image(2, 12, 14, 14), weight, Window(padding=(1, 1)), normal(40), normal(2, 40, 14, 14), "relu")


@every_kernel
def test_extremes_do_not_saturate(name):
    weight = torch.ones(4, 16, 3, 3)
    weight[1], weight[2, ::2], weight[3, 1::2] = -1.0, -1.0, -1.0
    for value in (0, 255):
        x = image(1, 16, 5, 5, scale=(1.0, 255 - value))
        x.values.fill_(value)
        check(name, x, weight, Window(padding=(1, 1)))


@every_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_residuals(name, activation):
    x, weight = image(2, 5, 9, 9), weights(6, 5, 3, 3, density=0.6)
    for bias in (None, normal(6)):
        for floats, words in ((None, None), (normal(2, 6, 7, 7), image(2, 6, 7, 7, scale=(0.02, 90)))):
            check(name, x, weight, Window(), bias, floats, activation)
            check(name, x, weight, Window(), bias, words, activation, to=(0.03, 77))


@every_kernel
def test_groups_of_whole_words_and_others(name):
    for groups, each, out in ((2, 3, 4), (3, 1, 3), (12, 1, 12), (6, 2, 18), (2, 4, 8), (3, 8, 24)):
        window = Window((2, 1), (1, 1), groups=groups)
        weight = weights(out, each, 3, 3, density=0.8)
        check(name, image(2, groups * each, 11, 13), weight, window, to=(0.05, 0))
        packed = conv8.pack_conv8(weight, window, name)
        assert torch.equal(packed.to_dense() == 0, weight == 0) or float(weight[weight != 0].abs().min()) < 0.02


@every_kernel
def test_images_may_have_scales_of_their_own(name):
    x = words_of(torch.stack([normal(6, 8, 9), 30 * normal(6, 8, 9), torch.zeros(6, 8, 9)]))
    assert x.scale.shape == (3,) and x.scale[1] > 10 * x.scale[0]
    check(name, x, weights(8, 6, 3, 3), Window(padding=(1, 1)), normal(8))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_on_any_image(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    name, groups = data.draw(st.sampled_from(sorted(KERNELS))), draw(1, 3)
    kernel, pair = (draw(1, 5), draw(1, 5)), lambda low, high: (draw(low, high), draw(low, high))
    window = Window(pair(1, 3), pair(0, 4), pair(1, 3), groups)
    size = pair(1, 24)
    if min(window.out_size(size, kernel)) < 1:
        return
    weight = weights(groups * draw(1, 9), draw(1, 9), *kernel, density=draw(0, 10) / 10)
    x = image(draw(0, 3), groups * weight.shape[1], *size, scale=(0.1, draw(0, 255)))
    torch.set_num_threads(draw(1, 3))
    check(name, x, weight, window, normal(weight.shape[0]), to=data.draw(st.sampled_from([None, (0.2, 31)])))


@every_kernel
def test_the_weight_comes_back_rounded_and_survives_copies_and_files(name, tmp_path):
    weight, window = weights(7, 5, 3, 2), Window((1, 2), (1, 0))
    packed = conv8.pack_conv8(weight, window, name)
    step = weight.flatten(1).abs().amax(1).clamp_min(1e-30) / 127
    rounded = (weight / step[:, None, None, None]).round() * step[:, None, None, None]
    torch.testing.assert_close(packed.to_dense(), rounded)
    assert packed.nnz == int(rounded.count_nonzero())
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(twin.to_dense(), packed.to_dense())
        assert (twin.window, twin.kernel) == (window, name)
    stored = packed_bytes(packed)
    (tmp_path / "packed").write_bytes(stored.numpy().tobytes())
    file = ops.map_file(tmp_path / "packed")
    seen = conv8.see_conv8(file, 0, stored.numel(), packed.shape, window, name)
    x = image(1, 5, 9, 9)
    assert torch.equal(seen.convolve(x), packed.convolve(x))
    with pytest.raises(ValueError, match="another size"):
        conv8.see_conv8(file, 0, stored.numel(), (7, 4, 3, 2), window, name)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_floats_go_to_words_and_back(isa, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", isa)
    for shape in ((1, 1, 1, 1), (2, 7, 5, 9), (3, 4, 16, 17)):
        x = 4 * normal(*shape)
        known = words_of(x, (0.05, 100))
        assert torch.equal(known.codes(), ((x / torch.tensor(0.05)).round() + 100).clamp(0, 255).to(torch.uint8))
        torch.testing.assert_close(known.floats(), (known.codes().int() - 100) * torch.tensor(0.05))
        own = words_of(x)
        assert float(((own.floats() - x).abs() / own.scale.view(-1, 1, 1, 1)).max()) < 0.5001
    x[1, 0, 0, 0] = float("nan")
    assert words_of(x).scale.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("window", [(3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 3, 1, 2), (5, 2, 2, 1)])
def test_pooling_of_words_is_the_rounded_pooling(isa, window, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", isa)
    size, stride, padding, dilation = window
    for high, wide in ((5, 5), (9, 33), (17, 16), (12, 70)):
        if min(high, wide) + 2 * padding < dilation * (size - 1) + 1:
            continue
        x = words_of(normal(2, 6, high, wide))
        x = Words(x.values, 6, x.scale[:1], x.zero[:1])
        for ceil in (False, True):
            pool = Pool((size, size), (stride, stride), (padding, padding), (dilation, dilation), ceil)
            wanted = F.max_pool2d(x.codes().float(), size, stride, padding, dilation, ceil)
            assert torch.equal(largest(x, pool).codes().float(), wanted)


def test_wrong_inputs_say_what_was_expected():
    packed = conv8.pack_conv8(weights(4, 3, 3, 3))
    with pytest.raises(ShapeError, match=r"2 channels.*takes 3"):
        packed.convolve(image(1, 2, 5, 5))
    with pytest.raises(ShapeError, match="smaller than the kernel"):
        packed.convolve(image(1, 3, 2, 9))
    with pytest.raises(ShapeError, match="residual is Tensor"):
        packed.convolve(image(1, 3, 5, 5), None, normal(1, 4, 3, 3), "none", (0.1, 0))
    with pytest.raises(ShapeError, match="bias"):
        packed.convolve(image(1, 3, 5, 5), normal(3))
    with pytest.raises(UnknownNameError, match="relu"):
        packed.convolve(image(1, 3, 5, 5), None, None, "rellu")
    with pytest.raises(UnknownNameError, match="conv8-"):
        conv8.pack_conv8(weights(4, 3, 3, 3), kernel="conv8-none")
    with pytest.raises(DTypeError, match="float64"):
        words_of(normal(1, 3, 5, 5).double())
    with pytest.raises(ShapeError, match="Words"):
        Words(torch.zeros(1, 2, 3, 3, 4, dtype=torch.uint8), 3, torch.ones(1), torch.zeros(1).int())
    with pytest.raises(ValueError, match="32 bits"):
        conv8.pack_conv8(torch.ones(1, 1 << 17, 1, 1))
