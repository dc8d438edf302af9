"""Factors of static 8-bit inputs: every kernel that computes on bytes against exact integers, into floats and bytes."""

import copy

import pytest
import torch
from rows8 import bytes_of, exact_sums, product8

from rarefy import ops
from rarefy.core.errors import ShapeError
from rarefy.core.quantized import InputScale, QuantizedWeight, quantize_weight
from rarefy.ops.reference import ACTIVATIONS as FUNCTIONS

SKIPPING = ("columns", "neurons")  # they round what is left of a token themselves
KERNELS = {k.name: k for k in ops.kernels() if k.activations == "int8" and k.op not in SKIPPING}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)
OUT, WIDTH = 77, 224
STEP = 2.0**-5  # of powers of two: floats of sums below 2^24 are exact, so results must be equal bit for bit


def factors(count: int, seed: int) -> tuple[float, ...]:
    """From 1/16 to 16, no powers of two."""
    spread = 8 * torch.rand(count, generator=torch.Generator().manual_seed(seed)) - 4
    return tuple(spread.exp2().tolist())


def packed(name: str, scale: InputScale | None = None, seed: int = 0) -> ops.PackedWeight:
    """Random codes with two thirds zeros and scales of 1."""
    generator = torch.Generator().manual_seed(seed)
    bits = 4 if KERNELS[name].weights == "int4" else 8
    largest = 7 if bits == 4 else 127
    codes = torch.randint(-largest, largest + 1, (OUT, WIDTH), generator=generator)
    codes = (codes * (torch.rand(OUT, WIDTH, generator=generator) < 0.33)).to(torch.int8)
    groups = WIDTH // 32 if bits == 4 else 1
    return ops.pack(QuantizedWeight(codes, torch.ones(OUT, groups), bits), name, input_scale=scale)


def assert_equal(name: str, got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    """4-bit weights have a scale a group, whose sums are added as floats."""
    if KERNELS[name].weights == "int4":
        assert float((got.double() - want.double()).abs().max()) <= tolerance
    else:
        assert torch.equal(got, want)


@every_kernel
@pytest.mark.parametrize("tokens", [1, 3, 40, 130])
def test_float_rows_are_divided_before_they_are_rounded(name, tokens):
    scale = InputScale(STEP, 117, factors(WIDTH, 1))
    x = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(2)) * torch.tensor(scale.factors)
    x[0, :2] = torch.tensor([1e9, -1e9])  # saturate
    weight = packed(name, scale)
    assert weight.quantized is not None
    want = exact_sums(scale.quantise(x), torch.tensor([117]), weight.quantized.values).float() * STEP
    assert_equal(name, weight.multiply(x, None, "none"), want, 1e-4 * float(want.abs().max()))
    assert not torch.equal(packed(name, InputScale(STEP, 117)).multiply(x, None, "none"), want)


@every_kernel
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("tokens", [1, 2, 37, 130])
def test_bytes_come_out_with_a_factor_for_every_output(name, tokens, activation):
    weight, x, zero = packed(name), bytes_of(tokens, WIDTH), torch.tensor([90], dtype=torch.int32)
    bias = torch.arange(OUT) / 4.0 - 9
    to = InputScale(20.0, 33, factors(OUT, 3))
    sums = exact_sums(x, zero, weight.quantized.values).float() * STEP + bias
    want = to.quantise(FUNCTIONS[activation](sums))
    got = product8(weight, x, torch.tensor([STEP]), zero, bias, to, activation)
    assert_equal(name, got, want, 1)
    assert want.unique().numel() > 12 and not torch.equal(want, to._replace(factors=()).quantise(sums))


@every_kernel
def test_a_weight_and_its_copies_undo_the_factors(name):
    scale = InputScale(0.02, 100, factors(WIDTH, 4))
    weight = packed(name, scale)
    want = weight.quantized.values / torch.tensor(scale.factors)
    for held in (weight, copy.deepcopy(weight)):
        assert held.input_scale == scale and held.kernel == name
        assert torch.equal(held.to_dense(), want)
        assert torch.equal(held.to_dense() == 0, weight.quantized.values == 0)


def test_factors_that_fit_no_kernel_are_refused():
    weight = quantize_weight(torch.randn(8, 16))
    with pytest.raises(ShapeError, match="15 factors for the 16 inputs"):
        ops.pack(weight, input_scale=InputScale(0.1, 0, (1.0,) * 15))
    floats = next(k.name for k in ops.kernels() if k.weights == "int8" and k.activations == "fp32")
    with pytest.raises(ValueError, match="8-bit inputs"):
        ops.pack(weight, floats, input_scale=InputScale(0.1, 0, (1.0,) * 16))
    with pytest.raises(ValueError, match="8-bit inputs"):
        ops.pack(torch.randn(8, 16), input_scale=InputScale(0.1, 0, (1.0,) * 16))
    chosen = ops.pack(weight, input_scale=InputScale(0.1, 0, (1.0,) * 16)).kernel
    assert KERNELS[chosen].activations == "int8"
