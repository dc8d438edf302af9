"""The 8-bit products, dense and expanded from a bitmap: exact integers on every instruction set of this CPU."""

import pytest
import torch
from oracle import normal

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.ops.reference import ACTIVATIONS

KERNELS = {kernel.name: kernel for kernel in ops.kernels() if kernel.op in ("dense8", "expand8")}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def codes(out, width, density=1.0, seed=0, low=-127, high=127):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high + 1, (out, width), generator=generator)
    return (values * (torch.rand(out, width, generator=generator) < density)).to(torch.int8)


def bytes_of(tokens, width, seed=1):
    return torch.randint(0, 256, (tokens, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def per_token(tokens, seed=2):
    generator = torch.Generator().manual_seed(seed)
    zero = torch.randint(0, 256, (tokens,), generator=generator).int()
    return torch.rand(tokens, generator=generator) + 0.5, zero


def multiply8(packed, x, scale, zero, bias=None, activation="none", to=None):
    """From bytes (tokens, in) to floats (tokens, out), or to bytes of the scale and zero point `to`."""
    out = torch.full((x.shape[0], packed.shape[0]), 77, dtype=torch.float32 if to is None else torch.uint8)
    packed.layout.multiply8(
        x.data_ptr(), x.shape[0], scale.data_ptr(), zero.data_ptr(), int(scale.numel() > 1 or x.shape[0] == 1),
        0 if bias is None else bias.data_ptr(), ops.ACTIVATIONS.index(activation), out.data_ptr(),
        *((0.0, 0) if to is None else to), 0, torch.get_num_threads(),
    )  # fmt: skip
    return out


def sums(x, zero, values):
    """The exact integers (tokens, out)."""
    return (x.long() - zero.long()[:, None]) @ values.long().T


def assert_exact(name, values, tokens, seed=3):
    """With scales of one, float results below 2^24 are the integers; larger ones are the nearest floats."""
    out, width = values.shape
    packed = ops.pack(QuantizedWeight(values, torch.ones(out, 1)), name)
    x, zero = bytes_of(tokens, width, seed), per_token(tokens, seed)[1]
    got = multiply8(packed, x, torch.ones(tokens), zero)
    assert torch.equal(got, sums(x, zero, values).float())


@every_kernel
def test_token_counts_around_every_tile_edge(name):
    values = codes(37, 70)
    for tokens in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 129):
        assert_exact(name, values, tokens, seed=tokens)


@every_kernel
def test_input_counts_around_every_line_and_tile_edge(name):
    for width in (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 60, 63, 64, 65, 68, 127, 128, 129, 255, 257):
        for tokens in (1, 19):
            assert_exact(name, codes(20, width, seed=width), tokens)


@every_kernel
def test_row_counts_around_every_block_edge(name):
    for out in (1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 127, 129, 200):
        for tokens in (1, 5, 16, 40):
            assert_exact(name, codes(out, 66, seed=out), tokens)


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.5, 0.95, 1.0])
def test_densities(name, density):
    for tokens in (1, 4, 21):
        assert_exact(name, codes(100, 333, density), tokens)


@every_kernel
@pytest.mark.parametrize("tokens", [1, 7, 33])
@pytest.mark.parametrize("extreme", [-127, 127])
def test_extremes_do_not_saturate_on_the_way(name, extreme, tokens):
    values = torch.full((17, 1025), extreme, dtype=torch.int8)
    packed = ops.pack(QuantizedWeight(values, torch.ones(17, 1)), name)
    for byte, zero in ((255, 0), (0, 255), (255, 255), (0, 0)):
        x = torch.full((tokens, 1025), byte, dtype=torch.uint8)
        got = multiply8(packed, x, torch.ones(tokens), torch.full((tokens,), zero).int())
        assert got.eq(1025 * extreme * (byte - zero)).all()


@every_kernel
def test_the_widest_rows_stay_within_31_bits(name):
    values = torch.full((3, 1 << 16), 127, dtype=torch.int8)
    packed = ops.pack(QuantizedWeight(values, torch.ones(3, 1)), name)
    x = torch.full((2, 1 << 16), 255, dtype=torch.uint8)
    got = multiply8(packed, x, torch.ones(2), torch.zeros(2).int())
    assert got.eq(float((1 << 16) * 127 * 255)).all()


@every_kernel
def test_no_tokens_no_inputs_no_rows(name):
    assert run_floats(name, codes(30, 50), torch.zeros(0, 50)).shape == (0, 30)
    bias = normal(20)
    assert torch.equal(run_floats(name, codes(20, 0), torch.zeros(3, 0), bias), bias.expand(3, -1))
    assert run_floats(name, codes(0, 20), torch.zeros(3, 20)).shape == (3, 0)


def run_floats(name, values, x, bias=None, activation="none", input_scale=None):
    weight = QuantizedWeight(values, torch.full((values.shape[0], 1), 0.01))
    packed = ops.pack(weight, name, input_scale=input_scale)
    return torch.ops.rarefy.packed_linear(x, packed.handle, bias, activation, values.shape[0])


def quantised(x, scale, zero):
    return ((x / scale[:, None]).round() + zero[:, None]).clamp(0, 255)


def assert_close_to_rows(got, x, values, scale, zero, bias, activation):
    """The float formula in float64 on bytes rounded here; a byte may differ by one where x / scale is half way."""
    exact = (quantised(x.double(), scale.double(), zero.double()) - zero.double()[:, None]) @ values.double().T
    before = exact * 0.01 * scale.double()[:, None]
    want = ACTIVATIONS[activation](before if bias is None else before + bias.double())
    one_step = 0.01 * scale.double()[:, None] * values.double().abs().amax(1)
    allowed = 1e-5 * (1 + before.abs()) + one_step
    assert ((got.double() - want).abs() <= allowed).all()
    assert (got.double() - want).abs().mean() <= (1e-6 * (1 + before.abs())).mean() + 0.05 * one_step.mean()


@every_kernel
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("tokens", [1, 3, 21])
def test_floats_are_quantised_a_token_at_a_time(name, activation, tokens):
    values, x = codes(37, 130, 0.5), 3 * normal(tokens, 130) + normal(tokens, 1, seed=8)
    low, high = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    for bias in (None, normal(37)):
        got = run_floats(name, values, x, bias, activation)
        assert_close_to_rows(got, x, values, scale, zero, bias, activation)


@every_kernel
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_floats_are_quantised_with_a_scale_that_is_known(name, tokens):
    values, x, bias = codes(37, 130, 0.5), 3 * normal(tokens, 130), normal(37)
    scale, zero = torch.full((tokens,), 0.02), torch.full((tokens,), 100.0)  # saturates on both sides
    assert (quantised(x, scale, zero) == 255).any() and (quantised(x, scale, zero) == 0).any()
    got = run_floats(name, values, x, bias, "relu", (0.02, 100))
    assert_close_to_rows(got, x, values, scale, zero, bias, "relu")


@every_kernel
def test_floats_are_quantised_as_by_the_operation_of_its_own(name):
    values, x = codes(37, 130, 0.5), 3 * normal(33, 130) + normal(33, 1, seed=8)
    packed = ops.pack(QuantizedWeight(values, torch.full((37, 1), 0.01)), name)
    rows, scale, zero = torch.ops.rarefy.quantize_rows(x)
    assert torch.equal(run_floats(name, values, x), multiply8(packed, rows, scale, zero))


@every_kernel
def test_one_scale_for_all_tokens(name):
    values, x = codes(20, 64), bytes_of(19, 64)
    packed = ops.pack(QuantizedWeight(values, torch.ones(20, 1)), name)
    got = multiply8(packed, x, torch.tensor([0.5]), torch.tensor([7]).int())
    assert torch.equal(got, 0.5 * sums(x, torch.full((19,), 7), values).float())


@every_kernel
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("out", [16, 37])
def test_results_as_bytes(name, activation, out):
    values, x, bias = codes(out, 70), bytes_of(21, 70), normal(out)
    weight = QuantizedWeight(values, torch.rand(out, 1, generator=torch.Generator().manual_seed(4)) * 1e-4)
    packed = ops.pack(weight, name)
    scale, zero = per_token(21)
    floats = multiply8(packed, x, scale, zero, bias, activation)
    got = multiply8(packed, x, scale, zero, bias, activation, to=(0.03125, 60))  # a power of two: division is exact
    want = ((floats / 0.03125).round() + 60).clamp(0, 255).to(torch.uint8)
    assert torch.equal(got, want)
    assert want.max() == 255 and (activation != "none" or want.min() == 0)


@every_kernel
def test_a_token_that_is_not_finite_gives_only_nans(name):
    values, x = codes(20, 50, 0.5), normal(9, 50)
    clean = run_floats(name, values, x)
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = x.clone()
        broken[4, 49] = bad
        got = run_floats(name, values, broken)
        assert got[4].isnan().all()
        others = [t for t in range(9) if t != 4]
        assert torch.equal(got[others], clean[others])


@every_kernel
def test_constant_and_tiny_tokens(name):
    values = codes(20, 50, 0.5)
    x = torch.stack([torch.zeros(50), torch.full((50,), 3.0), torch.full((50,), -2.0), torch.full((50,), 1e-38)])
    want = (x @ values.float().T) * 0.01
    torch.testing.assert_close(run_floats(name, values, x), want, rtol=1e-5, atol=1e-6)


@every_kernel
def test_results_do_not_depend_on_the_number_of_threads(name):
    weight = quantize_weight(normal(400, 300))
    bias = normal(400)
    for tokens in (1, 7, 130, 700):
        x, results = normal(tokens, 300), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            packed = ops.pack(weight, name)
            results.append(torch.ops.rarefy.packed_linear(x, packed.handle, bias, "silu", 400))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@every_kernel
def test_the_weight_comes_back_exactly(name):
    for out, width in ((1, 1), (5, 17), (33, 65), (200, 1025)):
        weight = quantize_weight(normal(out, width) * (normal(out, width, seed=9) > 0.3))
        packed = ops.pack(weight, name)
        assert torch.equal(packed.to_dense(), weight.dequantize())
        assert packed.nnz == int(weight.values.count_nonzero())


@every_kernel
def test_bytes_are_what_the_format_says(name):
    multiple = KERNELS[name].tile[2]
    for out, width in ((1, 1), (33, 65), (64, 256), (200, 1030)):
        weight = QuantizedWeight(codes(out, width, 0.4), torch.ones(out, 1))
        packed = ops.pack(weight, name)
        entries = -(-out // 16) * 16 * (-(-width // multiple) * multiple)
        blocks, rows = -(-out // 16), 8 * out  # a scale and a sum for every row
        stored = entries if KERNELS[name].op == "dense8" else entries // 8 + packed.nnz + 8 * (blocks + 1)
        assert packed.nbytes == stored + rows


def test_refusals():
    name = next(iter(KERNELS))
    with pytest.raises(ValueError, match="one scale a row"):
        ops.pack(quantize_weight(normal(4, 8), group=4), name)
    with pytest.raises(ValueError, match="65536 inputs"):
        ops.pack(QuantizedWeight(torch.zeros(1, 70_000, dtype=torch.int8), torch.ones(1, 1)), name)
    with pytest.raises(ValueError, match="quantize_weight"):
        ops.pack(normal(4, 8), name)


def test_every_level_of_this_cpu_is_there():
    features = ops.features()
    levels = {kernel.isa for kernel in KERNELS.values()}
    wanted = {"scalar"} | {
        isa for isa, flag in (("avx2", "avx2"), ("avx512", "avx512vl"), ("vnni", "avx512_vnni")) if features[flag]
    }
    if ops.features()["isa"] == "amx":
        assert levels >= wanted | {"amx"}
