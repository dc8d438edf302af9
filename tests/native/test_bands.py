"""Bands of outputs: constant fan-in and grouped N:M, float and 8-bit weights, against float64."""

import pytest
import torch
from oracle import assert_close, normal, sparse

from rarefy import ops
from rarefy.core.quantized import quantize_weight
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.grouped_nm import GroupedNM
from rarefy.patterns.nm import NM

FANIN = {k.name: k for k in ops.kernels() if k.op == "fanin"}
GROUPED = {k.name: k for k in ops.kernels() if k.op == "nmg"}
pytestmark = pytest.mark.skipif(not FANIN, reason="the native module is not built")
TOKENS = (1, 2, 4, 5, 8, 9, 16, 17, 33)


def stored(weight, kernel):
    quantized = quantize_weight(weight)
    return (quantized, quantized.dequantize()) if kernel.weights == "int8" else (weight, weight)


def agrees(packed, weight, tokens, activation="none"):
    x, bias = normal(tokens, weight.shape[1], seed=tokens), normal(weight.shape[0])
    got = packed.multiply(x, bias, activation)
    if packed.quantized is None:
        return assert_close(got, x, weight, bias, activation)
    size = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    want = ops.reference.linear(x.double(), weight.double(), bias.double(), activation)
    assert ((got.double() - want).abs() <= 2.0**-22 * weight.shape[1] * size + 2e-6).all()


def fan_in(out, width, inputs):
    weight = normal(out, width) + 0.01
    return weight * FanIn().select(weight.abs(), inputs / width)


@pytest.mark.parametrize("name", FANIN)
@pytest.mark.parametrize(
    ("out", "width", "inputs"), [(1, 1, 1), (15, 40, 3), (16, 33, 0), (17, 64, 64), (100, 300, 30)]
)
def test_fan_in(name, out, width, inputs):
    source, weight = stored(fan_in(out, width, inputs), FANIN[name])
    packed = ops.pack(source, name)
    assert torch.equal(packed.to_dense(), weight)
    assert packed.nnz == int(weight.count_nonzero())
    for tokens in TOKENS:
        agrees(packed, weight, tokens, "gelu")


@pytest.mark.parametrize("name", FANIN)
def test_uneven_rows_are_filled_up(name):
    source, weight = stored(sparse(50, 90, 0.2), FANIN[name])
    agrees(ops.pack(source, name), weight, 3)


def test_bytes_of_a_fan_in_and_who_is_asked():
    weight = fan_in(64, 512, 51)
    (name,) = [n for n in ops.candidates(weight, 1) if n.startswith("fanin")]
    assert ops.pack(weight, name).nbytes == 64 * 51 * (4 + 2) + 256
    assert not [n for n in ops.candidates(sparse(64, 512, 0.1), 1) if n.startswith("fanin")]
    assert not [n for n in ops.candidates(weight, 128) if n.startswith("fanin")]


GROUPINGS = [GroupedNM(2, 4, 1), GroupedNM(1, 4, 8), GroupedNM(3, 6, 1), GroupedNM(4, 8, 1), GroupedNM(1, 2, 4)]


def grouped(pattern, out, chunks=2):
    weight = normal(out, chunks * pattern.granularity[1]) + 0.01
    return weight * pattern.select(weight.abs(), pattern.density)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("pattern", GROUPINGS, ids=str)
def test_grouped_n_of_m(name, pattern):
    for out in (1, 15, 16, 50):
        source, weight = stored(grouped(pattern, out), GROUPED[name])
        if int(weight.count_nonzero()) < weight.numel() * pattern.density:
            continue  # a weight that was rounded to zero: no grouped N:M any more
        packed = ops.pack(source, name)
        assert torch.equal(packed.to_dense(), weight)
        assert packed.nnz == int(weight.count_nonzero())
        again = ops.pack(packed.to_dense(), name.replace("int8", "fp32"))
        assert torch.equal(again.to_dense(), weight)
        for tokens in TOKENS:
            agrees(packed, weight, tokens, "relu")


def test_bytes_of_a_grouped_n_of_m():
    weight = grouped(GroupedNM(2, 4, 8), 64)
    name = next(n for n in GROUPED if n.endswith("fp32"))
    assert ops.pack(weight, name).nbytes == 64 * weight.shape[1] // 4 * (2 + 2 * 4) + 256 + 4 * 12


def test_results_do_not_depend_on_the_number_of_threads():
    for name in GROUPED.keys() | FANIN.keys():
        source, weight = stored(grouped(GroupedNM(2, 4, 8), 400, 4), (GROUPED | FANIN)[name])
        if int(weight.count_nonzero()) < weight.numel() // 2:
            continue
        packed, results = ops.pack(source, name), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(packed.multiply(normal(5, weight.shape[1]), None, "none"))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_other_supports_are_refused_and_not_proposed():
    weight = normal(8, 48) * NM(2, 4).select(normal(8, 48).abs(), 0.5)
    for name, kernel in GROUPED.items():
        with pytest.raises(ValueError, match="each way to keep"):
            ops.pack(stored(weight, kernel)[0], name)
    assert not [n for n in ops.candidates(weight, 1) if n.startswith("nmg")]
    assert [n for n in ops.candidates(grouped(GroupedNM(2, 4, 2), 8), 1) if n.startswith("nmg")]


def test_gradients_and_compiled_layers_are_right_with_any_support():
    """What the original reaches by falling back: right values and gradients where no kernel of the format fits."""
    import rarefy

    for weight in (grouped(GroupedNM(2, 4, 2), 32), normal(32, 96) * NM(2, 4).select(normal(32, 96).abs(), 0.5)):
        packed, x, grad = ops.pack(weight), normal(3, 96).requires_grad_(), normal(3, 32, seed=5)
        torch.ops.rarefy.packed_linear(x, packed.handle, None, "none", 32).backward(grad)
        torch.testing.assert_close(x.grad, grad @ weight, rtol=1e-4, atol=1e-4)
        layer = torch.nn.Linear(96, 32)
        layer.weight.data.copy_(weight)
        fast = rarefy.compile(layer, x.detach())
        torch.testing.assert_close(fast(x.detach()), layer(x.detach()), rtol=1e-4, atol=1e-4)
