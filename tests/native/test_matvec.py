"""Row streams of floats, bfloat16 and bytes: every kernel of this CPU against float64, and against exact integers."""

import pytest
import torch
from oracle import assert_close, normal, sparse
from rows8 import bytes_of, exact_sums, product8

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.patterns.nm import NM

KERNELS = {k.name: k for k in ops.kernels() if k.op == "matvec"}
FLOATS = [name for name, k in KERNELS.items() if k.activations == "fp32"]
BYTES = [name for name, k in KERNELS.items() if k.activations == "int8"]
FIXED = [name for name in KERNELS if "-fixed-" in name]
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
with_floats = pytest.mark.parametrize("name", FLOATS)
with_bytes = pytest.mark.parametrize("name", BYTES)
WIDTHS = (1, 7, 15, 16, 17, 63, 64, 65, 130, 1025)


def stored(weight, name):
    """What the kernel takes, and the float32 weight that it stands for."""
    if KERNELS[name].weights == "int8":
        quantized = quantize_weight(weight)
        return quantized, quantized.dequantize()
    return weight, weight.bfloat16().float() if KERNELS[name].weights == "bf16" else weight


def codes_of(out, width, density, seed=0):
    """Random 8-bit codes with both extremes, scales of 1."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (out, width), generator=generator) * (
        torch.rand(out, width, generator=generator) < density
    )
    return QuantizedWeight(codes.to(torch.int8), torch.ones(out, 1))


def nm_mask(out, width, n, m):
    return NM(n, m).select(normal(out, width).abs(), n / m)


@with_floats
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_floats_over_widths_and_densities(name, density):
    for width in WIDTHS:
        source, weight = stored(sparse(37, width, density, seed=width), name)
        packed, x = ops.pack(source, name), normal(5, width)
        assert torch.equal(packed.to_dense(), weight)
        assert packed.nnz == int(weight.count_nonzero())
        got, want = packed.multiply(x, None, "none").double(), x.double() @ weight.double().T
        bound = 2.0**-23 * (width + 2) * (x.double().abs() @ weight.double().abs().T)
        assert ((got - want).abs() <= bound).all()


@with_floats
def test_floats_over_token_counts_with_bias_and_activations(name):
    source, weight = stored(sparse(50, 200, 0.5), name)
    packed, bias = ops.pack(source, name), normal(50)
    for tokens in (1, 2, 3, 4, 5, 8, 9, 16, 17):
        x = normal(tokens, 200, seed=tokens)
        for activation in ops.ACTIVATIONS:
            assert_close(packed.multiply(x, bias, activation), x, weight, bias, activation)


@with_floats
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_reaches_exactly_the_rows_whose_support_names_it(name, value):
    if "-dense-" in name:
        pytest.skip("every input takes part in every row")
    source, weight = stored(sparse(60, 90, 0.3), name)
    packed, x = ops.pack(source, name), normal(3, 90)
    clean = packed.multiply(x, None, "none")
    x[1, 41] = float(value)
    got, reached = packed.multiply(x, None, "none"), torch.zeros_like(clean, dtype=torch.bool)
    reached[1] = weight[:, 41] != 0
    assert torch.equal(~got.isfinite(), reached) and reached.any()
    assert torch.equal(got[~reached], clean[~reached])


@with_bytes
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_bytes_are_exact_in_integers(name, density):
    for width in WIDTHS:
        weight, x = codes_of(37, width, density, seed=width), bytes_of(3, width)
        for zero in (torch.tensor([0, 128, 255], dtype=torch.int32), torch.tensor([131], dtype=torch.int32)):
            got = product8(ops.pack(weight, name), x, torch.ones(len(zero)), zero)
            want = exact_sums(x, zero, weight.values)
            assert want.abs().max() < 2**24 or width > 400
            assert torch.equal(got, want.float())


@with_bytes
def test_bytes_over_token_counts_and_threads(name):
    weight, bias = quantize_weight(sparse(333, 200, 0.5)), normal(333)
    packed = ops.pack(weight, name)
    for tokens in (1, 2, 3, 4, 5, 8, 9, 17):
        x, scale = bytes_of(tokens, 200, seed=tokens), normal(tokens).abs() + 0.01
        zero = torch.randint(0, 256, (tokens,), dtype=torch.int32, generator=torch.Generator().manual_seed(3))
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(product8(packed, x, scale, zero, bias, activation="relu"))
        sums = exact_sums(x, zero, weight.values).double()
        want = (sums * scale.double().view(-1, 1) * weight.scale.double().T + bias.double()).relu()
        torch.testing.assert_close(results[0].double(), want, rtol=1e-6, atol=1e-4)
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@with_bytes
def test_the_largest_sums_do_not_overflow(name):
    width = 70_000  # 70000 * 255 * 127 does not fit 32 bits with a sign
    weight = QuantizedWeight(torch.full((2, width), 127, dtype=torch.int8), torch.ones(2, 1))
    x, zero = torch.full((1, width), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)
    assert torch.equal(
        product8(ops.pack(weight, name), x, torch.ones(1), zero), exact_sums(x, zero, weight.values).float()
    )


@with_bytes
def test_results_as_bytes_saturate(name):
    weight, x = codes_of(40, 100, 0.5), bytes_of(4, 100)
    zero, to = torch.tensor([7], dtype=torch.int32), (64.0, 100)
    packed = ops.pack(weight, name)
    got = product8(packed, x, torch.ones(1), zero, to=to)
    want = ((exact_sums(x, zero, weight.values) / 64.0).round() + 100).clamp(0, 255)
    assert torch.equal(got.double(), want.double())
    assert (got == 0).any() and (got == 255).any()


@with_bytes
def test_floats_are_rounded_to_bytes_first(name):
    weight = quantize_weight(sparse(40, 100, 0.5))
    x = normal(5, 100)
    step = (x.amax(1).clamp(min=0) - x.amin(1).clamp(max=0)) / 255
    dense = weight.dequantize()
    error = (ops.pack(weight, name).multiply(x, None, "none") - x @ dense.T).abs()
    assert (error <= 0.51 * step.view(-1, 1) * dense.abs().sum(1) + 1e-4).all()
    fixed = ops.pack(weight, name, input_scale=(0.05, 100)).multiply(x, None, "none")
    rounded = ((x / 0.05).round() + 100).clamp(0, 255) - 100
    torch.testing.assert_close(fixed, 0.05 * rounded @ dense.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 6), (5, 10), (2, 7), (7, 16), (1, 2), (12, 16)])
def test_every_n_of_m(name, n, m):
    width = 11 * m
    source, weight = stored(normal(30, width) * nm_mask(30, width, n, m), name)
    packed, x = ops.pack(source, name), normal(3, width)
    assert torch.equal(packed.to_dense(), weight)
    if name in FLOATS:
        assert_close(packed.multiply(x, None, "none"), x, weight, None, "none")
    else:
        x8, zero = bytes_of(3, width), torch.tensor([9], dtype=torch.int32)
        want = exact_sums(x8, zero, source.values).double() * source.scale.double().T
        torch.testing.assert_close(product8(packed, x8, torch.ones(1), zero).double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in KERNELS if "-bitmask-" in n or "-fixed-" in n])
def test_packed_bytes_are_those_of_the_format(name):
    size = {"fp32": 4, "bf16": 2, "int8": 1}[KERNELS[name].weights]
    source, weight = stored(normal(64, 1024) * nm_mask(64, 1024, 2, 4), name)
    bytes_a_row = 8 + 4 + (8 if size == 1 else 0)  # offset, count; scale and sum
    overhead = 256 + 8  # reading ahead, the last offset
    nonzeros = int(weight.count_nonzero()) if "-bitmask-" in name else 64 * 512
    assert ops.pack(source, name).nbytes == 64 * 1024 // 8 + nonzeros * size + 64 * bytes_a_row + overhead


def test_what_a_format_cannot_hold_is_refused():
    several = quantize_weight(normal(4, 32), 8, 16)
    for name, kernel in KERNELS.items():
        if "-index-" in name:
            wide = torch.zeros(1, 65_537)
            stored = quantize_weight(wide) if kernel.weights == "int8" else wide
            with pytest.raises(ValueError, match="16-bit columns"):
                ops.pack(stored, name)
        if kernel.weights == "int8":
            with pytest.raises(ValueError, match="one scale a row"):
                ops.pack(several, name)
            assert name not in ops.candidates(several, 1, "int8", kernel.activations)


def test_candidates_follow_the_density_and_the_pattern():
    def formats(weight, tokens=1):
        return {n.split("-")[2] for n in ops.candidates(weight, tokens, "bf16") if n.startswith("matvec")}

    assert formats(sparse(32, 64, 1.0)) == {"dense"}
    assert formats(sparse(32, 64, 0.5)) == {"bitmask"}
    assert formats(normal(32, 64) * nm_mask(32, 64, 2, 4)) == {"bitmask", "fixed"}
    assert formats(sparse(32, 640, 0.05)) >= {"bitmask", "index"}
    assert formats(sparse(32, 64, 0.5), tokens=64) == set()
