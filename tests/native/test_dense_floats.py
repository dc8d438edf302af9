"""Products with bfloat16 and float weights in lines: dense, and expanded from a bitmap (the check of `sparamx`)."""

import pytest
import torch
from oracle import EPS, assert_close, expected, normal, sparse, tolerance

from rarefy import ops
from rarefy.core.quantized import quantize_weight

KERNELS = {k.name: k for k in ops.kernels() if k.op in ("dense16", "dense32", "expand16", "expand32")}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def run(name, x, weight, bias=None, activation="none"):
    packed = ops.pack(weight, name)
    return torch.ops.rarefy.packed_linear(x, packed.handle, bias, activation, weight.shape[0])


def stored(name, values):
    return values if KERNELS[name].weights == "fp32" else values.bfloat16().float()


def used(name, x):
    return x if KERNELS[name].activations == "fp32" else x.bfloat16().float()


def check(name, x, weight, bias=None, activation="none"):
    """Against sums in float64 of what is stored and read: rounding of operands is known, only sums have an error.

    Zeros are multiplied too, so the bound counts every input as a term.
    """
    got = run(name, x, weight, bias, activation)
    rounded_x, rounded = used(name, x), stored(name, weight)
    error = (got.double() - expected(rounded_x, rounded, bias, activation)).abs()
    terms = 1 + weight.shape[1] * EPS * 2 * (rounded_x.double().abs() @ rounded.double().abs().T)
    allowed = tolerance(rounded_x, rounded, bias, activation) + terms - 1
    assert got.shape == error.shape
    assert (error <= allowed).all(), f"{(error - allowed).max():.3e} beyond the bound"


@every_kernel
def test_token_counts_around_every_tile_edge(name):
    weight, bias = sparse(50, 70, 0.4), normal(50)
    for tokens in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 64, 65, 129):
        check(name, normal(tokens, 70, seed=tokens), weight, bias)


@every_kernel
def test_input_counts_around_every_line_tile_and_cut_edge(name):
    for width in (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 97, 191, 192, 193, 255, 257, 383, 385, 513, 700):
        check(name, normal(20, width), sparse(40, width, 0.4, seed=width))


@every_kernel
def test_row_counts_around_every_block_edge(name):
    for out in (1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 129):
        for tokens in (1, 5, 17, 40):
            check(name, normal(tokens, 33), sparse(out, 33, 0.5, seed=out))


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.01, 0.25, 0.5, 0.95, 1.0])
def test_densities(name, density):
    for tokens in (1, 65):
        check(name, normal(tokens, 300), sparse(100, 300, density), normal(100), "gelu")


@every_kernel
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_activations_with_and_without_bias(name, activation):
    for tokens in (1, 21):
        for bias in (None, normal(37)):
            check(name, 3 * normal(tokens, 40), sparse(37, 40, 0.4), bias, activation)


@every_kernel
def test_long_rows_are_cut_without_a_change_of_the_order(name):
    for width in (1023, 1601, 3072):
        check(name, normal(70, width), sparse(35, width, 0.5))


@every_kernel
def test_no_tokens_no_inputs_no_rows(name):
    assert run(name, torch.zeros(0, 50), sparse(30, 50, 0.5)).shape == (0, 30)
    bias = normal(20)
    assert torch.equal(run(name, torch.zeros(3, 0), torch.zeros(20, 0), bias), bias.expand(3, -1))
    assert run(name, torch.zeros(3, 20), torch.zeros(0, 20)).shape == (3, 0)


@every_kernel
def test_zero_input_gives_the_bias(name):
    weight, bias = sparse(30, 50, 0.5), normal(30)
    assert torch.equal(run(name, torch.zeros(18, 50), weight, bias), bias.expand(18, -1))


@every_kernel
def test_a_nan_stays_in_its_token(name):
    """As in a dense product it reaches every output of the token: zeros are multiplied too."""
    weight, x = sparse(60, 90, 0.3), normal(40, 90)
    clean = run(name, x, weight)
    x[17, 5] = float("nan")
    got = run(name, x, weight)
    assert got[17].isnan().all()
    others = [t for t in range(40) if t != 17]
    assert torch.equal(got[others], clean[others])


@every_kernel
def test_the_weight_comes_back_bit_for_bit(name):
    for out, width in ((1, 1), (5, 17), (33, 65), (193, 65), (200, 1025)):
        weight = sparse(out, width, 0.4)
        packed = ops.pack(weight, name)
        assert torch.equal(packed.to_dense(), stored(name, weight))
        assert packed.nnz == int(weight.count_nonzero())


@every_kernel
def test_denormals_are_dropped_and_special_values_kept(name):
    tiny = torch.finfo(torch.float32).tiny
    weight = torch.tensor([[1e-40, 1.0, -1e-45, 0.0], [float("nan"), float("inf"), tiny, -0.0]])
    want = torch.tensor([[0.0, 1.0, 0.0, 0.0], [float("nan"), float("inf"), tiny, 0.0]])
    packed = ops.pack(weight, name)
    assert torch.equal(packed.to_dense().nan_to_num(7.0), want.nan_to_num(7.0))
    assert packed.nnz == 4


@every_kernel
def test_bytes_are_a_bit_an_entry_and_the_non_zeros(name):
    multiple, item = KERNELS[name].tile[2], 4 if KERNELS[name].weights == "fp32" else 2
    for out, width in ((1, 1), (33, 65), (64, 256), (200, 1030)):
        packed = ops.pack(sparse(out, width, 0.4), name)
        blocks = -(-out // 16)
        entries = blocks * 16 * (-(-width // multiple) * multiple)
        bitmap = entries // 8 + item * packed.nnz + 8 * (blocks + 1)
        assert packed.nbytes == (item * entries if KERNELS[name].op.startswith("dense") else bitmap)


@every_kernel
def test_results_do_not_depend_on_the_number_of_threads(name):
    weight, bias = sparse(400, 300, 0.3), normal(400)
    for tokens in (1, 7, 130, 700):
        x, results = normal(tokens, 300), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(name, x, weight, bias, "silu"))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("shape", [(33, 31), (100, 77), (257, 513)])
@pytest.mark.parametrize("tokens", [1, 45])
def test_float_weights_equal_the_dense_product_on_the_masked_weight(shape, tokens):
    weight, x = sparse(*shape, 0.5), normal(tokens, shape[1])
    for name in (k for k in KERNELS if k.startswith(("dense32", "expand32"))):
        assert_close(run(name, x, weight), x, weight, None, "none")
        torch.testing.assert_close(run(name, x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)


def test_8_bit_inputs_are_refused():
    packed = ops.pack(sparse(4, 8, 0.5), next(iter(KERNELS)))
    with pytest.raises(RuntimeError, match="8-bit inputs"):
        packed.layout.multiply8(0, 1, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 1)


def test_without_tiles_bfloat16_is_computed_with_floats(monkeypatch):
    usable = [k for k in ops.kernels() if k.isa != "amx"]
    monkeypatch.setattr(ops.native, "kernels", lambda: usable)
    for tokens in (1, 100):
        names = ops.candidates(sparse(64, 64, 0.5), tokens, "bf16", "bf16")
        assert any(name.startswith("expand16") for name in names)
        assert {k.activations for k in usable if k.name in names} == {"fp32"}


def test_which_kernels_are_worth_timing():
    few_zeros, many_zeros = sparse(64, 64, 0.7), sparse(64, 64, 0.2)
    assert any(n.startswith("expand32") for n in ops.candidates(few_zeros, 16))
    assert not any(n.startswith("expand32") for n in ops.candidates(many_zeros, 16))
    assert not any(n.startswith("expand32") for n in ops.candidates(few_zeros, 2048))
    dense, half = sparse(64, 64, 1.0), sparse(64, 64, 0.5)
    assert any(n.startswith("dense32") for n in ops.candidates(dense, 16))
    assert not any(n.startswith("dense32") for n in ops.candidates(many_zeros, 16))
    assert not any(n.startswith("dense32") for n in ops.candidates(dense, 2048))
    assert any(n.startswith("expand16") for n in ops.candidates(half, 16, "bf16", "bf16"))
    assert not any(n.startswith("expand16") for n in ops.candidates(dense, 16, "bf16", "bf16"))
    for weight in (dense, half):
        names = ops.candidates(quantize_weight(weight), 16, "int8", "int8")
        assert len([n for n in names if n.startswith("dense8")]) == 1
        assert any(n.startswith("expand8") for n in names) == (weight is half)
