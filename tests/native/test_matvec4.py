"""Groups of 4-bit weights: every kernel of this CPU against float64."""

import pytest
import torch
from oracle import normal
from rows8 import bytes_of, exact_sums, product8

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight

KERNELS = {k.name: k for k in ops.kernels() if k.op == "matvec4"}
FLOATS = [name for name, k in KERNELS.items() if k.activations == "fp32"]
BYTES = [name for name, k in KERNELS.items() if k.activations == "int8"]
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)
SHAPES = ((1, 1, None), (5, 17, None), (50, 70, None), (33, 208, 16), (7, 96, 32), (16, 1024, 32), (9, 2048, 64))


def grouped(out, width, density, group=None, seed=0):
    """4-bit weights of which about `density` of the groups of 16 inputs are there, unevenly over the rows."""
    generator = torch.Generator().manual_seed(seed)
    share = density * 2 * torch.rand(out, 1, generator=generator) if 0 < density < 1 else torch.full((out, 1), density)
    keep = torch.rand(out, (width + 15) // 16, generator=generator) < share
    return quantize_weight(normal(out, width, seed=seed) * keep.repeat_interleave(16, 1)[:, :width], 4, group)


def shapes_for(name):
    return [s for s in SHAPES if not ("-wide-" in name and s[2] == 16)]


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_the_weight_comes_back_but_for_the_rounding_of_scales(name, density):
    for out, width, group in shapes_for(name):
        weight = grouped(out, width, density, group)
        packed, want = ops.pack(weight, name), weight.dequantize()
        largest = weight.scale.amax(1, keepdim=True).repeat(1, width)
        assert ((packed.to_dense() - want).abs() <= 7 * largest / 131_000).all()
        assert torch.equal(packed.to_dense() != 0, want != 0)
        assert packed.nnz == int(want.count_nonzero())


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_floats(name, density):
    for out, width, group in shapes_for(name):
        packed, bias = ops.pack(grouped(out, width, density, group), name), normal(out)
        dense = packed.to_dense().double()
        for tokens in (1, 2, 3, 5, 9, 17):
            x = normal(tokens, width, seed=tokens)
            got = packed.multiply(x, bias, "relu").double()
            bound = 2.0**-22 * (width + 2) * (x.double().abs() @ dense.abs().T + bias.double().abs())
            assert ((got - (x.double() @ dense.T + bias.double()).relu()).abs() <= bound).all()


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_bytes(name, density):
    for out, width, group in shapes_for(name):
        packed = ops.pack(grouped(out, width, density, group), name)
        dense = packed.to_dense().double()
        for tokens in (1, 2, 3, 5, 9, 17):
            x, scale = bytes_of(tokens, width, seed=tokens), normal(tokens).abs() + 0.01
            zero = torch.randint(0, 256, (tokens,), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
            got = product8(packed, x, scale, zero).double()
            want = ((x.double() - zero.double().view(-1, 1)) @ dense.T) * scale.double().view(-1, 1)
            bound = 2.0**-22 * (width + 2) * 255 * scale.double().view(-1, 1) * dense.abs().sum(1)
            assert ((got - want).abs() <= bound).all()


@pytest.mark.parametrize("name", BYTES)
def test_extreme_codes_are_exact(name):
    codes = torch.full((6, 512), 7, dtype=torch.int8)
    codes[1], codes[2, ::2], codes[3, 16:] = -7, -7, 0
    weight = QuantizedWeight(codes, torch.full((6, 1), 65_535.0), 4)
    x, zero = torch.full((1, 512), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int32)
    got = product8(ops.pack(weight, name), x, torch.ones(1), zero)
    assert torch.equal(got, (exact_sums(x, zero, codes) * 65_535).float())


@every_kernel
def test_rows_of_very_different_lengths(name):
    weight = grouped(41, 4096, 1.0, 32)
    codes = weight.values.clone()
    for row in range(41):
        codes[row, 16 * (row * 37 % 257) :] = 0
    packed = ops.pack(QuantizedWeight(codes, weight.scale, 4), name)
    x = normal(1, 4096)
    step = float(x.amax() - x.amin()) / 255 if KERNELS[name].activations == "int8" else 0.0
    error = (packed.multiply(x, None, "none") - x @ packed.to_dense().T).abs()
    assert (error <= 0.51 * step * packed.to_dense().abs().sum(1) + 1e-3).all()


@every_kernel
def test_results_do_not_depend_on_the_number_of_threads(name):
    packed = ops.pack(grouped(400, 1024, 0.5, 32), name)
    for tokens in (1, 6):
        x, results = normal(tokens, 1024), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(packed.multiply(x, None, "silu"))
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-5)


def test_bytes_of_half_the_groups():
    """8 bytes of codes and 2 of scale a kept group, one bit a group, and 20 bytes a row for its start and scale."""
    codes = torch.ones(64, 2048, dtype=torch.int8).view(64, 128, 16)
    codes[:, ::2] = 0
    weight = QuantizedWeight(codes.view(64, 2048), torch.ones(64, 128), 4)
    name = next(n for n in KERNELS if "-groups-" in n)
    assert ops.pack(weight, name).nbytes == 64 * (64 * 10 + 16 + 20) + 256 + 8


@pytest.mark.parametrize(("kept", "filled"), [(0, 0), (1, 4), (6, 8), (8, 8), (9, 12)])
@pytest.mark.parametrize(("width", "number"), [(2048, 1), (4096, 1), (4112, 2)])
def test_bytes_of_listed_groups(width, number, kept, filled):
    """A number beside each kept group, rows filled up to whole fours of groups."""
    codes = torch.zeros(64, width // 16, 16, dtype=torch.int8)
    codes[:, width // 16 - kept :] = 3
    weight = QuantizedWeight(codes.view(64, width), torch.ones(64, 1), 4)
    for name in (n for n in KERNELS if "-listed-" in n):
        packed = ops.pack(weight, name)
        assert packed.nbytes == 64 * (filled * (10 + number) + 20) + 256 + 8
        assert torch.equal(packed.to_dense().round(), weight.dequantize())


def test_what_the_groups_cannot_hold_is_refused():
    for name in KERNELS:
        with pytest.raises(ValueError, match="a scale for every"):
            ops.pack(quantize_weight(normal(4, 32), 4, 8), name)
        with pytest.raises(ValueError, match="65536"):
            ops.pack(quantize_weight(torch.zeros(1, 65_552), 4), name)
        with pytest.raises(ValueError, match="4-bit"):
            ops.pack(quantize_weight(normal(4, 32), 8), name)
        with pytest.raises(ValueError, match="a scale for every"):
            ops.pack(quantize_weight(normal(4, 16), 4, 8), name)
        if "-wide-" in name:
            with pytest.raises(ValueError, match="a scale for every 32 inputs"):
                ops.pack(quantize_weight(normal(4, 48), 4, 16), name)
    assert ops.candidates(quantize_weight(normal(4, 32), 4, 8), 1, "int4") == []


@every_kernel
def test_a_group_is_there_for_any_one_of_its_inputs(name):
    """Row r keeps input r of the second group alone."""
    codes = torch.zeros(16, 64, dtype=torch.int8)
    codes[:, 16:32] = -7 * torch.eye(16, dtype=torch.int8)
    dense = ops.pack(QuantizedWeight(codes, torch.ones(16, 1), 4), name).to_dense()
    assert torch.equal(dense.round(), codes.float())


@every_kernel
def test_the_least_scale_beside_the_largest_is_not_zero(name):
    weight = QuantizedWeight(torch.full((3, 64), -7, dtype=torch.int8), torch.tensor([[1.0, 1e-7]] * 3), 4)
    assert (ops.pack(weight, name).to_dense() < 0).all()


@every_kernel
def test_the_widest_rows_that_are_taken(name):
    weight = grouped(2, 65_536, 1.0)
    assert torch.equal(ops.pack(weight, name).to_dense() != 0, weight.values != 0)


def test_candidates_follow_the_empty_groups():
    def formats(weight):
        return {n.split("-")[2] for n in ops.candidates(weight, 1, "int4", "int8")}

    listed = {"listed"} if any("-listed-" in n for n in KERNELS) else set()
    assert formats(grouped(32, 256, 0.5, 16)) == {"groups"} | listed
    assert "groups" not in formats(grouped(32, 256, 1.0, 16))
