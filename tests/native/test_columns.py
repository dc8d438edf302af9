"""Kernels that read only the columns whose inputs are not 0, or only the rows that are asked for, against float64."""

import pytest
import torch
from oracle import normal, sparse

from rarefy import ops
from rarefy.core.errors import ShapeError
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.ops.packed import pick_rows, selecting

KERNELS = {k.name: k for k in ops.kernels() if k.op in ("columns", "neurons")}
COLUMNS = [name for name, k in KERNELS.items() if k.op == "columns"]
ROWS = [name for name, k in KERNELS.items() if k.op == "neurons"]
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)
SHAPES = ((1, 1), (50, 70), (300, 33), (129, 208), (16, 1040))


def stored(name, out, width, density=1.0, seed=0):
    """A weight in the type that the kernel stores."""
    weight = sparse(out, width, density, seed) if density < 1 else normal(out, width, seed=seed)
    kind = KERNELS[name].weights
    if kind in ("fp32", "bf16"):
        return weight
    return quantize_weight(weight, 8) if kind == "int8" else quantize_weight(weight, 4, 16 if width % 16 == 0 else None)


def inputs(tokens, width, density, seed=1):
    keep = torch.rand(tokens, width, generator=torch.Generator().manual_seed(seed)) < density
    return normal(tokens, width, seed=seed) * keep


def assert_product(name, got, x, dense, bias):
    want = x.double() @ dense.double().T + bias.double()
    bound = 2.0**-22 * (x.shape[1] + 2) * (x.double().abs() @ dense.double().abs().T + bias.double().abs())
    if KERNELS[name].activations == "int8":  # an input is off by half of a 127th of the token's largest at most
        step = x.double().abs().amax(1, keepdim=True) / 127
        bound += 0.501 * step * ((x != 0).any(0).double() @ dense.double().abs().T)
    assert ((got.double() - want).abs() <= bound + 1e-30).all()


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_the_weight_comes_back_as_stored(name, density):
    for out, width in SHAPES:
        weight = stored(name, out, width, density)
        packed = ops.pack(weight, name)
        got = packed.to_dense()
        if isinstance(weight, torch.Tensor):
            want = weight.bfloat16().float() if KERNELS[name].weights == "bf16" else weight
            assert torch.equal(got, want)
        else:
            want = weight.dequantize()
            assert ((got - want).abs() <= 7 * weight.scale.amax() / 131_000).all()
        assert packed.nnz == int(want.count_nonzero())


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_products_for_any_share_of_inputs_and_any_tokens(name, density):
    for out, width in SHAPES:
        packed, bias = ops.pack(stored(name, out, width, 0.5), name), normal(out)
        for tokens in (1, 2, 3, 7, 16, 17):
            x = inputs(tokens, width, density, seed=tokens)
            assert_product(name, packed.multiply(x, bias, "none"), x, packed.to_dense(), bias)


@pytest.mark.parametrize("name", COLUMNS)
def test_several_panels_and_parts_of_the_columns(name):
    """More rows than a panel holds, and work enough to share columns out: the same with any number of threads."""
    packed, bias = ops.pack(stored(name, 5_700, 160), name), normal(5_700)
    x = inputs(3, 160, 0.5)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(packed.multiply(x, bias, "none"))
    assert_product(name, results[0], x, packed.to_dense(), bias)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", [n for n in COLUMNS if KERNELS[n].weights == "fp32"])
def test_a_column_that_no_token_uses_is_not_read(name):
    weight, x = normal(70, 40), inputs(5, 40, 0.5)
    x[:, 7] = 0
    weight[:, 7] = float("nan")
    assert ops.pack(weight, name).multiply(x, None, "none").isfinite().all()


@every_kernel
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_arrives(name, odd):
    x = inputs(2, 64, 0.0)
    x[1, 5] = odd
    got = ops.pack(stored(name, 64, 64), name).multiply(x, None, "none")
    assert not got[1].isfinite().all() and torch.equal(got[0], torch.zeros(64))


@pytest.mark.parametrize("name", [n for n in KERNELS if KERNELS[n].weights == "int8"])
def test_extreme_codes_are_exact(name):
    codes = torch.full((6, 500), 127, dtype=torch.int8)
    codes[1], codes[2, ::2], codes[3, 16:] = -127, -127, 0
    packed = ops.pack(QuantizedWeight(codes, torch.ones(6, 1), 8), name)
    x = torch.ones(1, 500)
    got, want = packed.multiply(x, None, "none")[0], codes.float().sum(1)
    if KERNELS[name].activations == "int8":  # sums are exact, what they are multiplied with is a rounded 127th
        torch.testing.assert_close(got, want, rtol=3e-7, atol=0)
    else:
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_every_length_are_asked_for_in_advance_within_the_weight(name):
    """Rows shorter and longer than what is fetched ahead, and lists that end before that."""
    for out, width in ((9, 16), (70, 300), (5, 2064), (3, 8192)):
        packed, x = ops.pack(stored(name, out, width), name), normal(2, width)
        got = pick_rows(packed, x, torch.arange(out, dtype=torch.int32))
        assert_product(name, got, x, packed.to_dense(), torch.zeros(out))


@pytest.mark.parametrize("name", ROWS)
def test_a_token_is_rounded_by_itself(name):
    """What stands beside it in the batch changes nothing."""
    packed, x = ops.pack(stored(name, 90, 208), name), normal(5, 208)
    x[1] *= 1e4
    rows = torch.arange(90, dtype=torch.int32)
    together = pick_rows(packed, x, rows)
    for t in range(5):
        alone = pick_rows(packed, x[t : t + 1], rows)[0]
        torch.testing.assert_close(together[t], alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("tokens", [1, 3, 4, 9])
def test_rows_of_a_list_and_nothing_else(name, tokens):
    packed, x = ops.pack(stored(name, 90, 208), name), normal(tokens, 208)
    for rows in ([], [0], [89], list(range(90)), list(range(1, 90, 7))):
        got = pick_rows(packed, x, torch.tensor(rows, dtype=torch.int32))
        dense = torch.zeros(90, 208)
        dense[rows] = packed.to_dense()[rows]
        assert_product(name, got, x, dense, torch.zeros(90))


def test_rows_that_are_not_there_are_refused():
    packed, x = ops.pack(stored(ROWS[0], 8, 16), ROWS[0]), normal(1, 16)
    for rows in ([8], [-1]):
        with pytest.raises(ShapeError, match="outside"):
            pick_rows(packed, x, torch.tensor(rows, dtype=torch.int32))
    with pytest.raises(ShapeError, match="int32"):
        pick_rows(packed, x, torch.tensor([0]))


def test_bytes_are_those_of_the_weight():
    """Whole panels of 256 rows: the values, 2 bytes of scale for 16 four-bit weights, and a few hundred beside."""
    for kind, each in (("fp32", 4.0), ("bf16", 2.0), ("int8", 1.0), ("int4", 0.5 + 2 / 16)):
        name = next(n for n in COLUMNS if KERNELS[n].weights == kind and "-dense-" in n)
        extra = ops.pack(stored(name, 256, 512), name).nbytes - 256 * 512 * each
        assert 0 <= extra <= 256 * 4 + 512


def test_they_are_named_where_asked_for_and_no_candidates_elsewhere():
    weight, half = normal(64, 64), sparse(64, 64, 0.5)
    assert [n.split("-")[2] for n in selecting(weight)] == ["dense"]
    assert {n.split("-")[2] for n in selecting(half)} == {"dense", "bitmask"}
    assert all(KERNELS[n].op == "neurons" for n in selecting(weight, rows=True))
    assert not {*ops.candidates(weight, 1), *ops.candidates(half, 1)} & set(KERNELS)
    assert selecting(quantize_weight(normal(8, 64), 4, 8), "int4") == []


@pytest.mark.parametrize("name", [n for n in KERNELS if KERNELS[n].activations == "int8"])
def test_rounded_inputs_on_the_grid_of_bytes_lose_nothing(name):
    """All signs and sizes of inputs and codes: what is added to make weights unsigned is taken out again."""
    four = KERNELS[name].weights == "int4"
    codes = torch.randint(-7 if four else -127, 8 if four else 128, (130, 208), dtype=torch.int8)
    x = torch.randint(-127, 128, (5, 208)).float() * inputs(5, 208, 0.6).ne(0)
    x[:, 3] = 127.0  # so that a step is 1
    x[:, 190] = -127.0
    packed = ops.pack(QuantizedWeight(codes, torch.ones(130, 1), 4 if four else 8), name)
    got = packed.multiply(x, None, "none")
    want = x.double() @ codes.double().T
    assert ((got.double() - want).abs() <= 2e-5 * want.abs() + 2e-2).all()


def test_rounded_inputs_only_where_they_are_asked_for():
    weight = quantize_weight(normal(64, 64), 8)
    floats, bytes_ = (selecting(weight, "int8", activations) for activations in ("fp32", "int8"))
    assert all(KERNELS[n].activations == "fp32" for n in floats)
    if any(KERNELS[n].activations == "int8" for n in COLUMNS):
        assert KERNELS[bytes_[-1]].activations == "int8"


def test_scales_that_they_do_not_hold_are_refused():
    for name in KERNELS:
        if KERNELS[name].weights == "int4":
            with pytest.raises(ValueError, match="a scale for every"):
                ops.pack(quantize_weight(normal(4, 32), 4, 8), name)
        if KERNELS[name].weights == "int8":
            with pytest.raises(ValueError, match="one scale a row"):
                ops.pack(quantize_weight(normal(4, 32), 8, 16), name)
