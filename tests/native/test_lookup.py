"""Kernels that pick their inputs out of registers: any shape and density against float64, in place and out of it."""

import pytest
import torch
from oracle import normal, sparse
from test_bands import agrees

from rarefy import ops
from rarefy.core.quantized import quantize_weight
from rarefy.ops.native import LEVELS

KERNELS = {k.name: k for k in ops.kernels() if k.op == "lookup"}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def packed_of(weight, name):
    """The packed weight and what is stored of it."""
    stored = KERNELS[name].weights
    if stored == "int8":
        quantized = quantize_weight(weight)
        return ops.pack(quantized, name), quantized.dequantize()
    return ops.pack(weight, name), weight if stored == "fp32" else weight.bfloat16().float()


def edges(name):
    """Shapes around the edges of bands and blocks."""
    lanes, block = KERNELS[name].tile[0], KERNELS[name].tile[2]
    assert block == 2 * lanes - 1
    return [
        (1, 1),
        (lanes - 1, block - 1),
        (lanes, block),
        (lanes + 1, block + 1),
        (3 * lanes, 4 * block + 5),
        (50, 700),
    ]


@every_kernel
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_shapes_around_every_edge(name, density):
    for out, width in edges(name):
        packed, weight = packed_of(sparse(out, width, density), name)
        assert torch.equal(packed.to_dense(), weight)
        assert packed.nnz == int(weight.count_nonzero())
        for tokens in (1, 2, 3, 7, 8, 9, 21):
            agrees(packed, weight, tokens, "gelu")


@every_kernel
def test_rows_of_all_lengths_beside_each_other(name):
    lanes, block = KERNELS[name].tile[0], KERNELS[name].tile[2]
    weight = torch.zeros(2 * lanes, 3 * block)
    for row in range(len(weight)):
        weight[row, : row * 3 % (3 * block)] = normal(row * 3 % (3 * block), seed=row) + 3.0
    packed, stored = packed_of(weight, name)
    assert torch.equal(packed.to_dense(), stored)
    for tokens in (1, 5):
        agrees(packed, stored, tokens)


@every_kernel
@pytest.mark.parametrize("tokens", [1, 6])
def test_inputs_without_weights_do_not_arrive(name, tokens):
    weight = sparse(40, 100, 0.3)
    weight[:, ::7] = 0.0
    packed, stored = packed_of(weight, name)
    x = normal(tokens, 100)
    clean = packed.multiply(x, None, "none")
    for spoilt in (torch.nan, torch.inf):
        x[:, ::7] = spoilt
        assert torch.equal(packed.multiply(x, None, "none"), clean)
    x = normal(tokens, 100)
    x[0, 8] = torch.nan
    assert torch.equal(packed.multiply(x, None, "none")[0].isnan(), stored[:, 8] != 0)


@every_kernel
def test_threads_change_no_bit(name):
    packed, _ = packed_of(sparse(300, 333, 0.2), name)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(packed.multiply(normal(5, 333), None, "relu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_bytes_and_who_is_asked():
    weight = sparse(64, 310, 0.2)
    names = [n for n in ops.candidates(weight, 1) if n.startswith("lookup")]
    widest = max(LEVELS.index(k.isa) for k in KERNELS.values())
    assert {KERNELS[n].isa for n in names} == {LEVELS[widest]}
    lanes, block = KERNELS[names[0]].tile[0], KERNELS[names[0]].tile[2]
    bands, blocks = 64 // lanes, -(-310 // block)
    counts = torch.nn.functional.pad(weight != 0, (0, blocks * block - 310)).view(bands, lanes, blocks, block).sum(3)
    steps = int(counts.amax(1).sum())
    packed = ops.pack(weight, next(n for n in names if KERNELS[n].weights == "fp32"))
    assert packed.nbytes == steps * 5 * lanes + 8 * (bands + 1) + bands * blocks
    assert not [n for n in ops.candidates(sparse(64, 310, 0.6), 1) if n.startswith("lookup")]
    assert not [n for n in ops.candidates(weight, 9) if n.startswith("lookup")]
