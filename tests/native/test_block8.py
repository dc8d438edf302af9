"""The sparse 8-bit kernels of every instruction set that this CPU has: sums of products exactly, then the epilogue."""

import pytest
import torch
from torch import Tensor

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight
from rarefy.ops.native import LEVELS
from rarefy.ops.packed import ACTIVATIONS, PackedWeight
from rarefy.ops.reference import ACTIVATIONS as FUNCTIONS

KERNELS = {k.name: k for k in ops.kernels() if k.weights == "int8" and k.activations == "int8" and k.op == "block8"}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def codes(out: int, width: int, density: float, seed: int = 0, largest: int = 127) -> Tensor:
    """Random int8 (out, width) in [-largest, largest], about `density` of them not zero."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-largest, largest + 1, (out, width), generator=generator)
    return (values * (torch.rand(out, width, generator=generator) < density)).to(torch.int8)


def bytes_of(tokens: int, width: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (tokens, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def packed(name: str, values: Tensor, scale: Tensor | None = None, **more: object) -> PackedWeight:
    scale = torch.ones(values.shape[0], 1) if scale is None else scale.view(-1, 1)
    return ops.pack(QuantizedWeight(values, scale), name, **more)


def multiply8(weight: PackedWeight, x: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None = None,
              activation: str = "none", to: tuple[float, int] | None = None) -> Tensor:  # fmt: skip
    """The native call on bytes (tokens, in); scale and zero have one value or one a token."""
    y = torch.full((x.shape[0], weight.shape[0]), 77, dtype=torch.uint8 if to else torch.float32)
    weight.layout.multiply8(
        x.data_ptr(), x.shape[0], scale.data_ptr(), zero.data_ptr(), int(scale.numel() > 1),
        0 if bias is None else bias.data_ptr(), ACTIVATIONS.index(activation), y.data_ptr(), *(to or (0.0, 0)), 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return y


def sums(x: Tensor, values: Tensor, zero: Tensor) -> Tensor:
    """Exact integers (tokens, out): sum over k of (x - zero) w."""
    return (x.long() - zero.long().view(-1, 1)) @ values.long().T


def assert_exact(name: str, x: Tensor, values: Tensor, zero: Tensor | None = None) -> None:
    """With scales of a power of two the result holds the integer sum, rounded once to float32."""
    zero = torch.full((1,), 131, dtype=torch.int32) if zero is None else zero
    got = multiply8(packed(name, values), x, torch.ones(zero.shape), zero)
    want = sums(x, values, zero)
    assert want.abs().max() < 2**31 if want.numel() else True
    assert torch.equal(got, want.float())


def around(edge: int) -> list[int]:
    return sorted({max(1, edge - 1), edge, edge + 1})


@every_kernel
def test_token_counts_around_every_tile_edge(name):
    values = codes(50, 70, 0.3)
    widest = KERNELS[name].tile[1]
    for tokens in sorted({t for edge in (1, 4, 16, 32, 64, widest, 2 * widest) for t in around(edge)}):
        assert_exact(name, bytes_of(tokens, 70, tokens), values)


@every_kernel
def test_feature_counts_around_every_tile_edge(name):
    depth = KERNELS[name].tile[2]
    for width in sorted({w for edge in (1, 4, 16, depth, 2 * depth) for w in (*around(edge), edge + 2, edge + 3)}):
        assert_exact(name, bytes_of(21, width), codes(40, width, 0.4, seed=width))


@every_kernel
def test_row_counts_around_every_band_edge(name):
    for out in sorted({o for edge in (1, 4, 16, 48, 192, 384) for o in around(edge)}):
        assert_exact(name, bytes_of(17, 33), codes(out, 33, 0.3, seed=out))


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.5, 0.95, 1.0])
def test_densities(name, density):
    assert_exact(name, bytes_of(65, 130), codes(200, 130, density))


@every_kernel
@pytest.mark.parametrize("weight", [-127, 127])
@pytest.mark.parametrize("byte", [0, 255])
def test_extremes_do_not_saturate(name, weight, byte):
    values = torch.full((20, 900), weight, dtype=torch.int8)
    x = torch.full((70, 900), byte, dtype=torch.uint8)
    for zero in (0, 255):
        assert_exact(name, x, values, torch.full((1,), zero, dtype=torch.int32))


@every_kernel
def test_a_zero_point_for_each_token(name):
    generator = torch.Generator().manual_seed(5)
    zero = torch.randint(0, 256, (90,), generator=generator, dtype=torch.int32)
    assert_exact(name, bytes_of(90, 777), codes(64, 777, 0.5), zero)


@every_kernel
def test_rows_and_columns_that_are_empty(name):
    values = codes(400, 900, 0.3)
    values[::3] = 0
    values[:190] = 0
    values[:, 128:700] = 0
    assert_exact(name, bytes_of(70, 900), values)


@every_kernel
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scales_bias_and_activation(name, activation):
    values, x, tokens = codes(37, 200, 0.4), bytes_of(90, 200), 90
    generator = torch.Generator().manual_seed(3)
    scale_w = torch.rand(37, generator=generator) / 100 + 1e-3
    bias = torch.randn(37, generator=generator)
    for scale, zero in (
        (torch.rand(tokens, generator=generator) / 50, torch.randint(0, 256, (tokens,), dtype=torch.int32)),
        (torch.full((1,), 0.013), torch.full((1,), 99, dtype=torch.int32)),
    ):
        before = sums(x, values, zero).double() * scale.double().view(-1, 1) * scale_w.double() + bias.double()
        want = FUNCTIONS[activation](before)
        got = multiply8(packed(name, values, scale_w), x, scale, zero, bias, activation)
        slope = 2 * want.sqrt() if activation == "relu2" else 1.0
        assert ((got - want).abs() <= slope * 1e-6 * (before.abs() + bias.abs()) + 2e-6).all()


@every_kernel
def test_bytes_come_out_rounded_and_saturated(name):
    values, x = codes(53, 300, 0.4), bytes_of(75, 300)
    one, zero = torch.full((1,), 2.0**-9), torch.full((1,), 128, dtype=torch.int32)
    weight = packed(name, values)
    y = multiply8(weight, x, one, zero, activation="gelu")
    for scale, to_zero in ((0.25, 7), (2.0, 0), (0.5, 255), (1.0, 128)):
        want = ((y / scale).round() + to_zero).clamp(0, 255).to(torch.uint8)
        assert {0, 255} & set(want.unique().tolist())
        assert torch.equal(multiply8(weight, x, one, zero, activation="gelu", to=(scale, to_zero)), want)


def dequantised(x: Tensor) -> Tensor:
    """What the kernel computes with: every token rounded to 256 steps of its own range."""
    values, scale, zero = torch.ops.rarefy.quantize_rows(x)
    return (values.double() - zero.double()[:, None]) * scale.double()[:, None]


@every_kernel
@pytest.mark.parametrize("tokens", [1, 5, 40, 130])
def test_float_rows_are_rounded_by_their_own_scales(name, tokens):
    values = codes(60, 333, 0.3)
    x = torch.randn(tokens, 333, generator=torch.Generator().manual_seed(tokens)) + 1
    weight = packed(name, values)
    got = torch.ops.rarefy.packed_linear(x, weight.handle, None, "none", 60)
    want = dequantised(x) @ values.double().T
    assert ((got - want).abs() <= 1e-6 * want.abs() + 1e-3).all()


@every_kernel
def test_float_rows_are_rounded_by_the_scale_given_at_packing(name):
    values, x = codes(60, 333, 0.3), torch.randn(50, 333, generator=torch.Generator().manual_seed(2))
    weight = packed(name, values, input_scale=(0.02, 120))
    rounded = ((x / 0.02).round() + 120).clamp(0, 255) - 120
    got = torch.ops.rarefy.packed_linear(x, weight.handle, None, "none", 60)
    want = rounded.double() * 0.02 @ values.double().T
    assert (rounded.abs() == 120).any()
    assert ((got - want).abs() <= 1e-6 * want.abs() + 0.02 * 127 * 3).all()  # ties of x / 0.02 may fall either way
    assert ((got - want).abs() <= 1e-5 * want.abs() + 1e-3).double().mean() > 0.95


@every_kernel
def test_the_weight_comes_back(name):
    for out, width in ((1, 1), (5, 17), (193, 65), (200, 1025)):
        values, scale = codes(out, width, 0.4), torch.arange(1, out + 1) / 64
        weight = packed(name, values, scale)
        assert torch.equal(weight.to_dense(), values * scale[:, None])
        assert weight.nnz == int(values.count_nonzero())
        assert weight.nbytes >= weight.nnz


@every_kernel
def test_no_tokens(name):
    weight = packed(name, codes(30, 50, 0.5))
    assert torch.ops.rarefy.packed_linear(torch.zeros(0, 50), weight.handle, None, "none", 30).shape == (0, 30)


@every_kernel
def test_no_inputs_give_the_bias(name):
    bias = torch.arange(3.0)
    weight = packed(name, torch.zeros(3, 0, dtype=torch.int8))
    got = torch.ops.rarefy.packed_linear(torch.zeros(2, 0), weight.handle, bias, "none", 3)
    assert torch.equal(got, bias.expand(2, -1))


@every_kernel
def test_results_do_not_depend_on_the_number_of_threads(name):
    values = codes(400, 900, 0.3)
    for tokens in (1, 70, 300):
        x, results = torch.randn(tokens, 900, generator=torch.Generator().manual_seed(tokens)), []
        weight = packed(name, values)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(torch.ops.rarefy.packed_linear(x, weight.handle, None, "silu", 400))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@every_kernel
def test_rows_whose_sums_may_overflow_are_refused(name):
    with pytest.raises(ValueError, match=r"row 1 .* 32 bits"):
        packed(name, torch.tensor([[1], [127]], dtype=torch.int8).repeat(1, 70_000))


@every_kernel
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_of_a_row_that_is_taken(name, sign):
    """Sums of codes are stored in 22 bits and a sign: 2^22 - 1 fits, one more does not."""
    values = torch.full((1, 33_027), 127 * sign, dtype=torch.int8)
    values[0, 0] = sign
    assert int(values.sum(dtype=torch.int64)) == sign * (2**22 - 1)
    assert_exact(name, bytes_of(1, 33_027) // 16, values)
    values[0, 0] = 2 * sign
    with pytest.raises(ValueError, match=r"row 0 .* 32 bits"):
        packed(name, values)


@every_kernel
def test_scales_of_groups_are_refused(name):
    with pytest.raises(ValueError, match="one scale a row"):
        ops.pack(QuantizedWeight(codes(4, 8, 1.0), torch.ones(4, 2)), name)


@pytest.mark.parametrize("name", [name for name in KERNELS if "-strip-" in name])
def test_rows_that_use_the_same_inputs_share_a_strip(name):
    """Three strips of rows that lie between each other take as much room as each beside rows of zeros."""
    together = KERNELS[name].tile[0]
    a, b, c = torch.zeros(3, 3 * together, 64, dtype=torch.int8)
    a[::3, :32] = b[1::3, 32:48] = c[2::3, 48:] = 1
    b[1::6, 0] = c[2::6, 0] = 1  # every other row has one input in common with the first strip
    matrices = (a + b + c, a, b.roll(-1, 0), c.roll(-2, 0), 0 * a)
    whole, *alone, nothing = (packed(name, values).nbytes for values in matrices)
    assert whole - nothing == sum(alone) - 3 * nothing


@pytest.mark.skipif(
    ops.features()["isa"] not in ("vnni", "vbmi2", "amx"), reason="the estimates are of AVX-512 with VNNI"
)
@pytest.mark.parametrize(
    ("rows", "columns", "shape"), [(1, 4, "-cell-"), (4, 1, "-strip-r4-"), (1, 1, "-strip-r2-"), (16, 1, "-strip-r16-")]
)
def test_the_shape_that_the_mask_fills_is_the_first_candidate(rows, columns, shape):
    keep = codes(384 // rows, 384 // columns, 0.2) != 0
    values = codes(384, 384, 1.0, largest=50) * keep.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    weight = QuantizedWeight(values, torch.ones(384, 1))
    ours = [n for n in ops.candidates(weight, 512, "int8", "int8") if n.startswith("block8")]
    assert shape in ours[0]
    assert len(ours) < len(KERNELS)


def test_a_weight_without_entries_has_a_candidate_and_one_token_none():
    zeros = QuantizedWeight(torch.zeros(8, 8, dtype=torch.int8), torch.ones(8, 1))
    assert any(n.startswith("block8") for n in ops.candidates(zeros, 64, "int8", "int8"))
    assert not any(n.startswith("block8") for n in ops.candidates(zeros, 1, "int8", "int8"))


def test_every_instruction_set_is_tested():
    allowed = LEVELS[: LEVELS.index(str(ops.features()["isa"])) + 1]
    assert {kernel.isa for kernel in KERNELS.values()} == set(allowed) - {"vbmi2", "amx"}
