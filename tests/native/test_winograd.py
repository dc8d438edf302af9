"""Dense convolutions by minimal filtering, images across the lanes: right against float64, and in bounds."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from oracle import EPS, normal
from test_conv import ACTIVATION_SLACK, activate, exact, weights
from test_conv_direct import LANES, images_of, laid_across

from rarefy import ops
from rarefy.core.errors import EngineError, ShapeError, UnknownNameError
from rarefy.engine.fused_conv import FusedConv2d, demand_of
from rarefy.ops import Pool, Window, conv_across, conv_kernels
from rarefy.ops.conv_reference import ACTIVATIONS

KERNELS = {k.name: k for k in conv_kernels.winograd_kernels()}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)
POOL = Pool((3, 3), (2, 2), (1, 1), (1, 1))

# Toom and Cook: a polynomial's values at 0, 1, -1, 1/2, -2 and its leading coefficient.
POINTS = torch.tensor([0.0, 1.0, -1.0, 0.5, -2.0], dtype=torch.float64)


def at_points(terms):
    """(6, terms): coefficients to values."""
    leading = torch.eye(terms, dtype=torch.float64)[-1:]
    return torch.cat([POINTS[:, None] ** torch.arange(terms), leading])


def matrices(outputs, taps):
    """A^T, G and B^T, from the values alone: B^T takes what G's rows are divided by."""
    scale = torch.stack([torch.prod(a - torch.cat([POINTS[:i], POINTS[i + 1 :]])) for i, a in enumerate(POINTS)])
    scale = torch.cat([scale, torch.ones(1, dtype=torch.float64)])
    to = torch.linalg.inv(at_points(6)).T * scale[:, None]
    return at_points(outputs).T, at_points(taps) / scale[:, None], to


def spread(x, weight, window, kernel):
    """What the rounding of each output can grow with: the sum with absolute values at every step."""
    down, left, right = (m.abs() for m in matrices(kernel.outputs, kernel.taps))
    m, (sy, sx), (high, wide) = kernel.outputs, window.stride, window.out_size(x.shape[2:], weight.shape[2:])
    across, deep = -(-wide // m), -(-high // m)
    reach = (m * deep + 6) * sy, (m * across + 6) * sx
    top, beside = window.padding
    padded = F.pad(x.double().abs(), (beside, reach[1], top, reach[0]))
    sums = 0.0
    for i in range(sy):
        for j in range(sx):
            g = weight.double().abs()[..., i::sy, j::sx]
            g = F.pad(g, (0, kernel.taps - g.shape[3], 0, kernel.taps - g.shape[2]))
            d = padded[..., i::sy, j::sx].unfold(2, 6, m).unfold(3, 6, m)[:, :, :deep, :across]
            sums = sums + torch.einsum("bctuij,ocij->botuij", right @ d @ right.T, left @ g @ left.T)
    tiles = down @ sums @ down.T
    return tiles.permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)[:, :, :high, :wide]


def convolve(packed, x, bias=None, residual=None, activation="none", pool=None, threads=1):
    """The native call for images (batch, in, height, width), whatever the kernel's lanes."""
    lanes, between = LANES[KERNELS[packed.kernel].isa], packed.out_shape(x.shape)
    shape = between if pool is None else pool.out_shape(between)
    across, out = laid_across(x, lanes, spare=70), laid_across(torch.full(shape, torch.nan), lanes)
    beside = None if residual is None else laid_across(residual, lanes)
    image, place = (across.shape[0], *x.shape[2:]), (*packed.window.padding, *between[2:])
    addresses = [0 if t is None else t.data_ptr() for t in (bias, beside)]
    act = ACTIVATIONS.index(activation)
    if pool is None:
        packed.layout.convolve_across(across.data_ptr(), image, place, *addresses, act, out.data_ptr(), threads)
    else:
        packed.layout.convolve_pooled(
            across.data_ptr(), image, place, addresses[0], act, pool.window, shape[2:], out.data_ptr(), threads
        )
    return images_of(out, x.shape[0])


def check(name, x, weight, window, bias=None, residual=None, activation="none"):
    packed = ops.pack_conv(weight, window, name, across=True)
    got = convolve(packed, x, bias, residual, activation)
    before, _ = exact(x, weight, window, bias, residual)
    terms = weight.shape[1] * window.stride[0] * window.stride[1] + 24
    bound = (
        EPS * terms * (spread(x, weight, window, KERNELS[name]) + (0 if bias is None else bias.abs()[:, None, None]))
    )
    bound += 0 if residual is None else 4 * EPS * residual.abs()
    if activation != "none":
        bound = 1.5 * bound + ACTIVATION_SLACK
    error = (got.double() - activate(before, activation)).abs()
    assert got.shape == before.shape
    assert float((error - bound).max()) <= 0, f"error {float(error.max()):.2e}"


def shape_for(name, stride, *channels):
    """A weight that the kernel takes: the largest window of its taps at that stride."""
    size = KERNELS[name].taps * stride
    return (*channels, size, size)


@every_kernel
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_image_sizes_around_every_tile_and_strip_edge(name, stride):
    kernel = KERNELS[name]
    weight, window = weights(*shape_for(name, stride, 5, 3), density=1.0), Window((stride, stride), (2, 1))
    strip = stride * 8 * kernel.outputs
    for wide in {stride * kernel.taps, stride * 6, stride * 6 + 1, strip - 1, strip, strip + stride, 2 * strip + 7}:
        for high in (stride * kernel.taps, stride * (kernel.taps + kernel.outputs) + 1):
            check(name, normal(2, 3, high, wide), weight, window, normal(5))


@every_kernel
@pytest.mark.parametrize("out", [1, 3, 4, 17, 40])
def test_channels_and_batches(name, out):
    lanes, window = LANES[KERNELS[name].isa], Window((2, 2), (3, 3))
    size = 2 * KERNELS[name].taps - 1
    for batch, channels in ((1, 1), (lanes, 2), (lanes + 3, 11)):
        check(
            name, normal(batch, channels, 19, 23), weights(out, channels, size, size, density=0.8), window, normal(out)
        )


@every_kernel
def test_a_stride_of_its_own_for_each_axis(name):
    taps = KERNELS[name].taps
    weight = weights(6, 3, 2 * taps, taps, density=1.0)
    check(name, normal(3, 3, 20, 21), weight, Window((2, 1), (0, 2)), normal(6))


@every_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_residual_and_activations(name, activation):
    weight, window = weights(*shape_for(name, 1, 10, 6), density=1.0), Window(padding=(1, 1))
    x = normal(4, 6, 9, 38)
    residual = normal(*exact(x, weight, window)[0].shape, seed=5)
    check(name, x, weight, window, normal(10), residual, activation)
    check(name, x, weight, window, None, None, activation)


@every_kernel
def test_errors_are_a_few_times_those_of_the_plain_sum(name):
    taps, x = KERNELS[name].taps, normal(16, 3, 40, 41)
    weight, window = normal(32, 3, 2 * taps - 1, 2 * taps - 1, seed=3), Window((2, 2), (taps - 1, taps - 1))
    wanted = exact(x, weight, window)[0]
    ours = (convolve(ops.pack_conv(weight, window, name, across=True), x) - wanted).square().mean().sqrt()
    plain = (F.conv2d(x, weight, None, window.stride, window.padding) - wanted).square().mean().sqrt()
    assert 0 < ours < (3.5 if KERNELS[name].outputs == 3 else 5) * plain


@every_kernel
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize(
    "pool",
    [
        POOL,
        Pool((2, 2), (2, 2), (0, 0), (1, 1)),
        Pool((3, 2), (1, 3), (1, 0), (1, 1)),
        Pool((5, 4), (2, 1), (2, 2), (1, 1)),
        Pool((1, 1), (3, 2), (0, 0), (1, 1)),
        Pool((3, 3), (2, 2), (0, 0), (1, 1), True),
    ],
)
def test_pooling_is_of_the_very_sums(name, pool, activation):
    weight, window = weights(*shape_for(name, 2, 9, 3), density=1.0), Window((2, 2), (3, 3))
    packed = ops.pack_conv(weight, window, name, across=True)
    for high, wide in ((57, 63), (24, 130), (11, 12)):
        x, bias = normal(3, 3, high, wide), normal(9)
        wanted = pool.largest(convolve(packed, x, bias, None, activation).contiguous())
        for threads in (1, 2, 5):
            assert torch.equal(convolve(packed, x, bias, None, activation, pool, threads), wanted)


@every_kernel
def test_a_nan_reaches_every_window_that_holds_it_and_only_tiles_that_do(name):
    taps = KERNELS[name].taps
    weight, window = weights(*shape_for(name, 1, 4, 2), density=1.0), Window(padding=(1, 1))
    x = normal(1, 2, 40, 40)
    x[0, 1, 20, 21] = torch.nan
    packed = ops.pack_conv(weight, window, name, across=True)
    for relu in ("none", "relu"):
        y = convolve(packed, x, None, None, relu)[0, 0].isnan()
        assert bool(y[22 - taps : 22, 23 - taps : 23].all())
        far = y.clone()
        far[22 - taps - 6 : 22 + 6, 23 - taps - 6 : 23 + 6] = False
        assert not bool(far.any())
        pooled = convolve(packed, x, None, None, relu, POOL)[0, 0].isnan()
        assert torch.equal(pooled, F.max_pool2d(y[None, None].float(), 3, 2, 1)[0, 0].bool())


@every_kernel
def test_threads_change_no_bit(name):
    weight, window = weights(*shape_for(name, 1, 70, 9), density=1.0), Window(padding=(1, 1))
    packed = ops.pack_conv(weight, window, name, across=True)
    for height, width in ((6, 7), (40, 33)):
        x, bias = normal(5, 9, height, width), normal(70)
        first = convolve(packed, x, bias)
        for threads in (2, 3, 5):
            assert torch.equal(convolve(packed, x, bias, threads=threads), first)


@every_kernel
def test_what_is_packed_comes_back(name, tmp_path):
    window = Window((2, 1), (1, 2))
    weight = weights(21, 3, 2 * KERNELS[name].taps - 1, KERNELS[name].taps, density=0.7)
    weight[0, 0, 0, :2] = torch.tensor([1e-40, 0.0])
    kept = torch.where(weight.abs() < 1e-38, 0.0, weight)
    packed = ops.pack_conv(weight, window, name, across=True)
    twins = [packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))]
    raw = ops.packed_bytes(packed)
    path = tmp_path / "weights"
    path.write_bytes(bytes(128) + raw.numpy().tobytes())
    twins.append(ops.see_conv(ops.map_file(path), 128, raw.numel(), packed.shape, window, name, True))
    x = normal(2, 3, 11, 10)
    for twin in twins:
        assert torch.equal(twin.to_dense(), kept)
        assert (twin.nnz, twin.nbytes, twin.kernel) == (int(kept.count_nonzero()), packed.nbytes, name)
        assert torch.equal(convolve(twin, x), convolve(packed, x))
    with pytest.raises(ValueError, match="another size or window"):
        ops.see_conv(ops.map_file(path), 128, raw.numel(), (20, *packed.shape[1:]), window, name, True)


def test_what_these_kernels_do_not_take():
    name, taps = next((k.name, k.taps) for k in KERNELS.values())
    weight = torch.ones(2, 3, taps, taps)
    with pytest.raises(EngineError, match="across=True"):
        ops.pack_conv(weight, Window(), name)
    for shape, window, why in (
        ((2, 3, taps + 1, taps), Window(), "another number of taps"),
        ((2, 3, taps, taps), Window((1, 2)), "another number of taps"),
        ((2, 3, taps, taps), Window(dilation=(2, 1)), "it is dilated"),
        ((4, 1, taps, taps), Window(groups=2), "it has groups"),
    ):
        with pytest.raises(ValueError, match=why):
            ops.pack_conv(torch.ones(shape), window, name, across=True)
    packed = ops.pack_conv(weight, Window(), name, across=True)
    for window in ((40, 3, 1, 1, 0, 0, 1, 1), (3, 3, 0, 1, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match="overlap too much"):
            packed.layout.convolve_pooled(0, (1, 50, 50), (0, 0, 48, 48), 0, 0, window, (9, 9), 0, 1)
    with pytest.raises(ValueError, match="dilated"):
        packed.layout.convolve_pooled(0, (1, 50, 50), (0, 0, 48, 48), 0, 0, (3, 3, 2, 2, 1, 1, 2, 2), (9, 9), 0, 1)


def test_through_the_door():
    name = conv_kernels.filters_across((6, 3, 7, 7), Window((2, 2)))[0]
    weight, window, x, bias = normal(6, 3, 7, 7), Window((2, 2), (3, 3)), normal(20, 3, 30, 31), normal(6)
    packed = ops.pack_conv(weight, window, name, across=True)
    across = conv_across.to_across(x)
    whole = conv_across.from_across(conv_across.convolve_across(packed, across, bias, None, "relu"), 20)
    torch.testing.assert_close(whole, F.relu(F.conv2d(x, weight, bias, 2, 3)), rtol=1e-4, atol=1e-4)
    pooled = conv_across.from_across(conv_across.pooled_across(packed, across, bias, "relu", POOL), 20)
    assert torch.equal(pooled, F.max_pool2d(whole, 3, 2, 1))
    out = torch.empty_like(conv_across.to_across(pooled))
    assert conv_across.pooled_across(packed, across, bias, "relu", POOL, out) is out
    plain = ops.pack_conv(weight, window, across=True)
    with pytest.raises(EngineError, match="only kernels of minimal filtering"):
        conv_across.pooled_across(plain, across, bias, "relu", POOL)
    with pytest.raises(EngineError, match="only kernels of minimal filtering"):
        conv_across.pooled_across(packed, across, bias, "relu", Pool((3, 3), (2, 2), (1, 1), (2, 2)))
    with pytest.raises(ShapeError, match="out has shape"):
        conv_across.pooled_across(packed, across, bias, "relu", POOL, torch.empty(1))
    with pytest.raises(UnknownNameError, match="pooled_across: activation"):
        conv_across.pooled_across(packed, across, bias, "tanh", POOL)


def test_they_are_timed_for_dense_weights_of_their_windows_only():
    names = set(KERNELS)
    stem, same = Window((2, 2), (3, 3)), Window(padding=(1, 1))
    assert names & set(conv_kernels.candidates_across(torch.ones(8, 3, 7, 7), stem))
    assert names & set(conv_kernels.candidates_across(torch.ones(8, 8, 3, 3), same))
    assert not names & set(conv_kernels.candidates_across(weights(8, 3, 7, 7), stem))
    assert not names & set(conv_kernels.candidates_across(torch.ones(8, 8, 1, 1), Window()))
    assert not names & set(conv_kernels.candidates_across(torch.ones(8, 1, 3, 3), Window(groups=8)))
    assert not names & set(conv_kernels.candidates_across(torch.ones(8, 3, 7, 3), stem))


@every_kernel
def test_the_demand_counts_the_products_that_are_computed(name):
    kernel = KERNELS[name]
    weight = normal(*shape_for(name, 2, 8, 3))
    packed = ops.pack_conv(weight, Window((2, 2)), name, across=True)
    image = (4, 3, 2 * (kernel.taps + 6 * kernel.outputs - 1), 2 * (kernel.taps + 6 * kernel.outputs - 1))
    demand = demand_of(FusedConv2d(packed, None, "none"), image, residual=False)
    assert packed.out_shape(image)[2:] == (6 * kernel.outputs, 6 * kernel.outputs)
    assert demand.flops == 2.0 * 4 * 36 * 36 * 12 * 8  # 36 tiles of 36 products, 4 phases of 3 channels
