"""Sparse convolutions across the lanes that read their inputs in place: right against float64, and in bounds."""

import copy
import pickle
import threading

import pytest
import torch
from oracle import normal
from test_conv import assert_right, weights

from rarefy import ops
from rarefy.core.errors import EngineError
from rarefy.ops import Window, conv_kernels
from rarefy.ops.conv_reference import ACTIVATIONS

KERNELS = {k.name: k for k in conv_kernels.direct_kernels()}
LANES = {"scalar": 4, "avx2": 8, "avx512": 16}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def laid_across(images, lanes, spare=0):
    """(blocks, ..., lanes) with zeros for images that are not there, between `spare` vectors of NaN."""
    blocks = -(-images.shape[0] // lanes)
    whole = torch.cat([images, images.new_zeros(blocks * lanes - images.shape[0], *images.shape[1:])])
    across = whole.view(blocks, lanes, *images.shape[1:]).permute(0, 2, 3, 4, 1)
    buffer = torch.full((across.numel() + (2 * spare + 1) * lanes,), torch.nan)
    at = -buffer.data_ptr() % 64 // 4 % lanes + spare * lanes  # on a boundary of vectors
    buffer[at : at + across.numel()] = across.reshape(-1)
    return buffer[at : at + across.numel()].view(across.shape)


def images_of(across, batch):
    """The way back."""
    return across.permute(0, 4, 1, 2, 3).flatten(0, 1)[:batch]


def convolve(packed, x, bias=None, residual=None, activation="none", threads=1):
    """The native call for images (batch, in, height, width), whatever the kernel's lanes."""
    lanes, shape = LANES[KERNELS[packed.kernel].isa], packed.out_shape(x.shape)
    across, out = laid_across(x, lanes, spare=70), laid_across(torch.full(shape, torch.nan), lanes)
    beside = None if residual is None else laid_across(residual, lanes)
    packed.layout.convolve_across(
        across.data_ptr(),
        (across.shape[0], *x.shape[2:]),
        (*packed.window.padding, *shape[2:]),
        0 if bias is None else bias.data_ptr(),
        0 if beside is None else beside.data_ptr(),
        ACTIVATIONS.index(activation),
        out.data_ptr(),
        threads,
    )
    return images_of(out, x.shape[0])


def check(name, x, weight, window=Window(), bias=None, residual=None, activation="none"):
    packed = ops.pack_conv(weight, window, name, across=True)
    got = convolve(packed, x, bias, residual, activation)
    assert_right(got, x, weight, window, bias, residual, activation)


@every_kernel
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_widths_around_every_tile_edge(name, stride):
    weight = weights(6, 5, 3, 3)
    whole = KERNELS[name].pixels
    for width in {1, 2, whole - 1, whole, whole + 1, 2 * whole, 2 * whole + 1, stride * whole + 1, 3 * stride * whole}:
        for height in (1, 5):
            x = normal(3, 5, height, width)
            check(name, x, weight, Window((stride, stride), (1, 1)), normal(6))


@every_kernel
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((7, 3, 1, 1), Window()),
        ((7, 3, 5, 5), Window(padding=(2, 2))),
        ((6, 2, 5, 3), Window((2, 1), (4, 5))),
        ((8, 3, 2, 4), Window((1, 2), (3, 2), (2, 3))),
        ((12, 2, 3, 3), Window(padding=(1, 1), groups=3)),
        ((9, 1, 3, 3), Window((2, 2), (1, 1), groups=9)),
        ((40, 3, 3, 3), Window(padding=(2, 2), dilation=(2, 2))),
    ],
)
def test_windows(name, shape, window):
    weight, lanes = weights(*shape, density=0.4), LANES[KERNELS[name].isa]
    for batch in (1, lanes, lanes + 3):
        x = normal(batch, shape[1] * window.groups, 17, 21)
        check(name, x, weight, window, normal(shape[0]))


@every_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_residual_and_activations(name, activation):
    weight, window = weights(10, 6, 3, 3), Window(padding=(1, 1))
    for width in (2 * KERNELS[name].pixels, KERNELS[name].pixels - 1):
        x = normal(4, 6, 6, width)
        residual = normal(4, 10, 6, width, seed=5)
        check(name, x, weight, window, normal(10), residual, activation)
        check(name, x, weight, window, None, None, activation)


@every_kernel
def test_dense_empty_and_rows_without_weights(name):
    window, x = Window(padding=(1, 1)), normal(2, 4, 5, 18)
    for density in (0.0, 1.0):
        check(name, x, weights(5, 4, 3, 3, density=density), window, normal(5), None, "relu")
    weight = weights(5, 4, 3, 3)
    weight[1:4] = 0.0
    check(name, x, weight, window, normal(5))


@every_kernel
def test_an_infinity_touches_only_the_windows_that_hold_it(name):
    weight, width = weights(4, 2, 3, 3, density=1.0), 2 * KERNELS[name].pixels
    for row, column in ((0, 0), (1, width - 1), (2, 0), (3, width - 1)):  # beside another row, channel, the border
        x = normal(1, 2, 4, width)
        x[0, 0, row, column] = torch.inf
        y = convolve(ops.pack_conv(weight, Window(padding=(1, 1)), name, across=True), x)
        reached = torch.zeros(4, width, dtype=torch.bool)
        reached[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
        assert torch.equal(~y[0, 0].isfinite(), reached)


@every_kernel
def test_threads_change_no_bit(name):
    weight, window = weights(70, 9, 3, 3), Window(padding=(1, 1))
    packed = ops.pack_conv(weight, window, name, across=True)
    for height, width in ((3, 7), (40, 33)):
        x, bias = normal(5, 9, height, width), normal(70)
        first = convolve(packed, x, bias)
        for threads in (2, 3, 5):
            assert torch.equal(convolve(packed, x, bias, threads=threads), first)


@every_kernel
def test_images_of_several_sizes_at_once(name):
    weight, window = weights(8, 3, 3, 3), Window(padding=(1, 1))
    packed = ops.pack_conv(weight, window, name, across=True)
    inputs = [normal(2, 3, 6 + i, 9 + 3 * i) for i in range(4)]
    wanted, wrong = [convolve(packed, x) for x in inputs], []

    def call(first):
        for i in range(40):
            at = (first + i) % len(inputs)
            if not torch.equal(convolve(packed, inputs[at]), wanted[at]):
                wrong.append(at)

    workers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@every_kernel
def test_what_is_packed_comes_back(name, tmp_path):
    window = Window((2, 1), (1, 2), (1, 2), groups=3)
    weight = weights(21, 3, 3, 2)
    packed = ops.pack_conv(weight, window, name, across=True)
    twins = [packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))]
    raw = ops.packed_bytes(packed)
    path = tmp_path / "weights"
    path.write_bytes(bytes(128) + raw.numpy().tobytes())
    twins.append(ops.see_conv(ops.map_file(path), 128, raw.numel(), packed.shape, window, name, True))
    x = normal(2, 9, 11, 10)
    for twin in twins:
        assert torch.equal(twin.to_dense(), weight)
        assert (twin.nnz, twin.nbytes, twin.kernel) == (int(weight.count_nonzero()), packed.nbytes, name)
        assert torch.equal(convolve(twin, x), convolve(packed, x))
    for other in (Window((1, 1), (1, 2), (1, 2), 3), Window((2, 1), (1, 2), (1, 1), 3)):
        with pytest.raises(ValueError, match="another size or window"):
            ops.see_conv(ops.map_file(path), 128, raw.numel(), packed.shape, other, name, True)


@every_kernel
def test_denormals_are_dropped_and_nan_is_kept(name):
    weight = torch.zeros(2, 1, 1, 1)
    weight[0], weight[1] = 1e-40, float("nan")
    packed = ops.pack_conv(weight, Window(), name, across=True)
    y = convolve(packed, torch.ones(1, 1, 2, 2), activation="relu")
    assert packed.nnz == 1
    assert bool((y[0, 0] == 0).all())
    assert bool(y[0, 1].isnan().all())


def test_what_these_kernels_do_not_take():
    name = next(iter(KERNELS))
    with pytest.raises(EngineError, match="across=True"):
        ops.pack_conv(torch.ones(2, 3, 1, 1), Window(), name)
    layout = ops.pack_conv(torch.ones(2, 3, 1, 1), Window(), name, across=True).layout
    with pytest.raises(ValueError, match="70000 x 70000 in 3 channels is too large"):
        layout.convolve_across(0, (1, 70000, 70000), (0, 0, 70000, 70000), 0, 0, 0, 0, 1)


def test_they_are_timed_for_sparse_and_for_grouped_weights_only():
    direct = set(KERNELS)
    assert direct & set(conv_kernels.candidates_across(weights(8, 8, 3, 3)))
    assert direct & set(conv_kernels.candidates_across(torch.ones(8, 1, 3, 3), Window(groups=8)))
    assert not direct & set(conv_kernels.candidates_across(torch.ones(8, 8, 3, 3)))
    assert set(conv_kernels.candidates_across(weights(8, 8, 3, 3))) <= set(conv_kernels.kernels_across())
