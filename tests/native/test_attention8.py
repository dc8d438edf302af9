"""8-bit attention against the same roundings in float64, and against attention without them."""

import math

import pytest
import torch

from rarefy import ops
from rarefy.ops import native
from rarefy.ops.attention import attention, attention8

LEVELS = ("scalar", "avx2", "avx512", "vnni", "vbmi2", "amx")
IN_FORCE = native.module().isa() if ops.available() else "scalar"
pytestmark = pytest.mark.skipif(LEVELS.index(IN_FORCE) < LEVELS.index("vnni"), reason="no 8-bit dot products here")


def heads(batch, count, tokens, depth, seed):
    made = torch.randn(batch, tokens, count, depth, generator=torch.Generator().manual_seed(seed))
    return (made * torch.linspace(0.2, 3.0, depth)).transpose(1, 2)


def rounded(x, axis):
    """x as codes times a scale along an axis, in float64."""
    most = x.abs().amax(axis, keepdim=True)
    inverse = torch.where(most > 1e-30, 127.0 / most, 0.0)
    return (x * inverse).round().double() * (most / 127.0).double()


def oracle(q, k, v, allowed, scale):
    """What the kernel computes, but for the last of the 255 steps where e^x lies near the middle of two."""
    scores = scale * rounded(q, -1) @ rounded(k, -1).transpose(-1, -2)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    top = scores.amax(-1, keepdim=True)
    powers = (scores - torch.where(top == -math.inf, 0.0, top)).exp()
    weights = (255 * powers).round()
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(1.0), 0.0) @ rounded(v, -2), total.squeeze(-1)


def key_mask(batch, keys):
    allowed = torch.ones(batch, 1, 1, keys, dtype=torch.bool)
    for row in range(batch):
        allowed[row, ..., max(1, keys - 3 * row) :] = False
    return allowed


@pytest.mark.parametrize("depth", [16, 32, 48, 64, 112, 128])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 3), (6, 64), (24, 65), (25, 63), (130, 128), (7, 200)])
@pytest.mark.parametrize("masked", [False, True])
def test_against_the_same_roundings(queries, keys, depth, masked):
    q, k, v = heads(3, 2, queries, depth, 0), heads(3, 2, keys, depth, 1), heads(3, 2, keys, depth, 2)
    allowed = key_mask(3, keys) if masked else None
    got = attention8(q, k, v, allowed, 0.1)
    want, total = oracle(q, k, v, allowed, 0.1)
    # e^x is 1e-4 off, so that some of the `keys` weights round to the other neighbour: one of `total` steps each
    room = 0.05 * keys / total.amin() + 2.0 / total.amin() + 1e-4
    assert (got - want).abs().max() <= room * v.abs().max()
    exact = attention(q, k, v, allowed, 0.1)
    assert (got - exact).abs().max() <= 0.05 * exact.abs().max()
    if keys > 3:
        assert not torch.equal(got, exact)  # it was 8 bits


def test_thread_counts_agree():
    q, k, v = (heads(2, 3, 70, 32, seed) for seed in range(3))
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(attention8(q, k, v, key_mask(2, 70), 0.2))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_rows_that_see_nothing_and_zeros():
    q, k, v = (heads(2, 1, 9, 16, seed) for seed in range(3))
    allowed = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    allowed[1] = False
    got = attention8(q, k, v, allowed, 0.2)
    assert torch.equal(got[1], torch.zeros_like(got[1])) and got[0].abs().max() > 0.1
    flat = attention8(torch.zeros_like(q), k, v, None, 0.2)
    torch.testing.assert_close(flat, v.mean(2, keepdim=True).expand_as(v), atol=0.03, rtol=0.0)
    assert attention8(q, torch.zeros_like(k), torch.zeros_like(v), None, 0.2).abs().max() == 0


@pytest.mark.parametrize("case", ["depth", "a mask of each query", "a float mask", "no such instructions"])
def test_otherwise_it_is_the_float_kernel(case, monkeypatch):
    depth = 24 if case == "depth" else 32
    q, k, v = (heads(2, 2, 20, depth, seed) for seed in range(3))
    mask = None
    if case == "a mask of each query":
        mask = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, 2, 20, 20)
    if case == "a float mask":
        mask = torch.zeros(2, 1, 1, 20)
    if case == "no such instructions":
        monkeypatch.setenv("RAREFY_ISA", "avx512")
    assert torch.equal(attention8(q, k, v, mask, 0.2), attention(q, k, v, mask, 0.2))
