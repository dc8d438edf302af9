"""Every convolution kernel of every instruction set that this CPU has, against sums in float64."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ACTIVATION_SLACK, EPS, normal

from rarefy import ops
from rarefy.core.errors import DTypeError, EngineError, ShapeError, UnknownNameError
from rarefy.ops import Window, conv_across, conv_kernels
from rarefy.ops.conv_reference import ACTIVATIONS, activate

KERNELS = {k.name: k for k in conv_kernels.kernels()}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def weights(*shape, density=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * (torch.rand(*shape, generator=generator) < density)


def exact(x, weight, window, bias=None, residual=None):
    """The sum before the activation in float64, and the sum of absolute values that bounds its error."""
    sides = (window.stride, window.padding, window.dilation, window.groups)
    y = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), *sides)
    size = F.conv2d(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs(), *sides)
    return (y, size) if residual is None else (y + residual.double(), size + residual.double().abs())


def assert_right(got, x, weight, window, bias=None, residual=None, activation="none"):
    before, size = exact(x, weight, window, bias, residual)
    terms = (weight != 0).flatten(1).sum(1)[:, None, None] + 2
    bound = 2 * EPS * (terms + 1) * size
    if activation != "none":  # hardswish has slope 1.5 at its steepest, the others less
        bound = 1.5 * bound + ACTIVATION_SLACK + 4 * EPS * size
    error = (got.double() - activate(before, activation)).abs()
    assert got.shape == before.shape
    assert not error.numel() or float((error - bound).max()) <= 0, f"error {float(error.max()):.2e}"


def check(name, x, weight, window=Window(), bias=None, residual=None, activation="none"):
    packed = ops.pack_conv(weight, window, name)
    got = torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, residual, activation)
    assert_right(got, x, weight, window, bias, residual, activation)


@every_kernel
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_image_sizes_around_every_tile_edge(name, stride):
    rows, lanes = KERNELS[name].pixels, 16
    weight, window = weights(5, 3, 3, 3), Window((stride, stride), (1, 1))
    for high in (1, stride * rows - 1, stride * rows, stride * rows + 1):
        for wide in (1, 3, 4, 5, 7, 8, 9, stride * lanes - 1, stride * lanes, stride * lanes + 1):
            check(name, normal(2, 3, high, wide), weight, window)


@every_kernel
def test_channel_counts_around_every_group_and_band(name):
    for out in (1, 2, 3, 4, 5, 63, 64, 65, 129):
        check(name, normal(1, 4, 9, 9), weights(out, 4, 3, 3, seed=out), Window(padding=(1, 1)), normal(out))
    for into in (1, 17, 80):
        check(name, normal(1, into, 6, 20), weights(6, into, 3, 3, seed=into), Window(padding=(1, 1)))


@every_kernel
def test_pixels_of_a_pointwise_window_are_one_long_line(name):
    for high, wide in ((1, 1), (7, 7), (4, 4), (3, 5), (13, 11)):
        check(name, normal(3, 20, high, wide), weights(9, 20, 1, 1), bias=normal(9))


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_densities_and_empty_channels(name, density):
    weight = weights(40, 12, 3, 3, density=density)
    weight[3], weight[:, 5] = 0, 0
    check(name, normal(2, 12, 14, 14), weight, Window(padding=(1, 1)), normal(40), normal(2, 40, 14, 14), "relu")


@every_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(name, activation):
    x, weight = 3 * normal(2, 5, 9, 9), weights(6, 5, 3, 3, density=0.6)
    for bias, residual in (
        (None, None),
        (normal(6), None),
        (None, normal(2, 6, 7, 7)),
        (normal(6), normal(2, 6, 7, 7)),
    ):
        check(name, x, weight, Window(), bias, residual, activation)


@every_kernel
def test_groups_and_depthwise(name):
    for groups, each, out in ((2, 3, 4), (3, 1, 3), (12, 1, 12), (6, 2, 18)):
        window = Window((2, 1), (1, 1), groups=groups)
        check(name, normal(2, groups * each, 11, 13), weights(out, each, 3, 3, density=0.8), window)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_on_any_image(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    name, groups = data.draw(st.sampled_from(sorted(KERNELS))), draw(1, 3)
    kernel, pair = (draw(1, 5), draw(1, 5)), lambda low, high: (draw(low, high), draw(low, high))
    window = Window(pair(1, 3), pair(0, 4), pair(1, 3), groups)
    image = pair(1, 24)
    if min(window.out_size(image, kernel)) < 1:
        return
    weight = weights(groups * draw(1, 9), draw(1, 9), *kernel, density=draw(0, 10) / 10)
    x = normal(draw(0, 3), groups * weight.shape[1], *image)
    torch.set_num_threads(draw(1, 3))
    check(name, x, weight, window, normal(weight.shape[0]))


@every_kernel
def test_images_across_lanes_give_the_same(name):
    window = Window((2, 1), (1, 2), (1, 2))
    weight, bias = weights(21, 9, 3, 2), normal(21)
    if KERNELS[name].isa not in {k.isa for k in conv_kernels.kernels() if k.name in ops.conv_candidates(weight)}:
        pytest.skip("images go across the widest vectors only")
    packed = ops.pack_conv(weight, window, name, across=True)
    assert torch.equal(packed.to_dense(), weight)
    for batch in (1, conv_across.lanes(), conv_across.lanes() + 1):
        x = normal(batch, 9, 11, 10)
        residual = normal(*packed.out_shape(x.shape))
        across = conv_across.convolve_across(
            packed, conv_across.to_across(x), bias, conv_across.to_across(residual), "relu"
        )
        assert_right(conv_across.from_across(across, batch), x, weight, window, bias, residual, "relu")


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 5, 7), (16, 3, 4, 4), (37, 2, 65, 64)])
def test_to_across_and_back_is_exact(shape):
    x = normal(*shape)
    across = conv_across.to_across(x)
    assert across.shape == (-(-shape[0] // conv_across.lanes()), *shape[1:], conv_across.lanes())
    assert torch.equal(across[0, ..., 0], x[0])
    assert torch.equal(conv_across.from_across(across, shape[0]), x)


@every_kernel
def test_unpack_copy_and_pickle_are_exact(name):
    weight = weights(13, 5, 3, 2, density=0.4)
    packed = ops.pack_conv(weight, Window(groups=1, padding=(1, 0)), name)
    assert packed.nnz == int(weight.count_nonzero())
    twins = [packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))]
    assert len({p.handle for p in twins}) == 3
    for twin in twins:
        assert torch.equal(twin.to_dense(), weight)
        assert (twin.window, twin.kernel) == (packed.window, name)


@every_kernel
def test_denormals_are_dropped_and_nan_is_kept(name):
    weight = torch.zeros(2, 1, 1, 1)
    weight[0], weight[1] = 1e-40, float("nan")
    packed = ops.pack_conv(weight, kernel=name)
    assert packed.nnz == 1
    y = torch.ops.rarefy.packed_conv2d(torch.ones(1, 1, 2, 2), packed.handle, None, None, "none")
    assert bool((y[0, 0] == 0).all()) and bool(y[0, 1].isnan().all())


@every_kernel
def test_an_infinity_touches_only_the_windows_that_hold_it(name):
    weight = weights(7, 3, 3, 3, density=0.5, seed=4)
    weight[:, 0] = 0.0
    x = normal(1, 3, 20, 20)
    x[0, 0, 0, 0] = float("inf")  # of a channel without weights, first of the panel: filling must not multiply it
    packed = ops.pack_conv(weight, Window(padding=(1, 1)), name)
    y = torch.ops.rarefy.packed_conv2d(x, packed.handle, None, None, "none")
    assert bool(y.isfinite().all())


def test_the_operation_is_what_torch_expects():
    packed = ops.pack_conv(weights(8, 3, 3, 3), Window((2, 2), (1, 1)))
    x, bias, residual = normal(2, 3, 9, 9), normal(8), normal(2, 8, 5, 5)
    given_ = [t.requires_grad_() for t in (x, bias, residual)]
    torch.library.opcheck(torch.ops.rarefy.packed_conv2d.default, (x, packed.handle, bias, residual, "silu"))
    mine = torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, residual, "silu")
    theirs = F.silu(F.conv2d(x, packed.to_dense(), bias, 2, 1) + residual)
    for a, b in zip(torch.autograd.grad(mine.sum(), given_), torch.autograd.grad(theirs.sum(), given_), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_strided_inputs_are_read_as_torch_reads_them():
    weight, window = weights(4, 6, 3, 3), Window(padding=(1, 1))
    x = normal(2, 6, 10, 12).to(memory_format=torch.channels_last)
    check(next(iter(KERNELS)), x, weight, window)
    check(next(iter(KERNELS)), normal(2, 12, 10, 12)[:, ::2], weight, window)


def test_wrong_inputs_say_what_was_expected():
    packed = ops.pack_conv(weights(4, 3, 3, 3))
    run = torch.ops.rarefy.packed_conv2d
    with pytest.raises(ShapeError, match=r"\(1, 2, 5, 5\).*\(batch, 3, height, width\)"):
        run(normal(1, 2, 5, 5), packed.handle, None, None, "none")
    with pytest.raises(ShapeError, match="smaller than the kernel"):
        run(normal(1, 3, 2, 9), packed.handle, None, None, "none")
    with pytest.raises(ShapeError, match="residual"):
        run(normal(1, 3, 5, 5), packed.handle, None, normal(1, 4, 5, 5), "none")
    with pytest.raises(ShapeError, match="bias"):
        run(normal(1, 3, 5, 5), packed.handle, normal(3), None, "none")
    with pytest.raises(DTypeError, match="float64"):
        run(normal(1, 3, 5, 5).double(), packed.handle, None, None, "none")
    with pytest.raises(UnknownNameError, match="relu"):
        run(normal(1, 3, 5, 5), packed.handle, None, None, "rellu")
    with pytest.raises(UnknownNameError, match="conv-"):
        ops.pack_conv(weights(4, 3, 3, 3), kernel="conv-none")
    with pytest.raises(ShapeError, match="kh, kw"):
        ops.pack_conv(weights(4, 3))
    with pytest.raises(ShapeError, match="groups=3"):
        ops.pack_conv(weights(4, 3, 1, 1), Window(groups=3))
    handle = packed.handle
    del packed
    with pytest.raises(EngineError, match="does not exist"):
        run(normal(1, 3, 5, 5), handle, None, None, "none")


def test_without_the_native_kernels_the_result_is_the_same():
    weight, window = weights(6, 3, 3, 3), Window((2, 2), (1, 1))
    packed = ops.pack_conv(weight, window, "reference")
    x, bias = normal(2, 3, 9, 9), normal(6)
    got = torch.ops.rarefy.packed_conv2d(x, packed.handle, bias, None, "relu6")
    assert_right(got, x, weight, window, bias, None, "relu6")
