"""What stands between the products of a decoder, against sums in float64, on every instruction set."""

import pytest
import torch
from oracle import EPS, normal

from rarefy.ops import native
from rarefy.ops.decoder import PANEL, capacity_for
from rarefy.ops.packed import ACTIVATIONS
from rarefy.ops.reference import ACTIVATIONS as REFERENCE

MODULE = native.module()
pytestmark = pytest.mark.skipif(MODULE is None, reason="the native module is not there")
ISAS = native.LEVELS[: native.LEVELS.index(MODULE.isa()) + 1] if MODULE is not None else ()
SIZES = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 257)


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", request.param)
    assert native.module().isa() == request.param
    return request.param


@pytest.mark.parametrize("features", SIZES)
def test_rms_norm_of_a_sum(isa, features):
    x, residual, weight = normal(3, features), normal(3, features, seed=2), normal(features, seed=3)
    for with_residual in (True, False):
        total, y = torch.full_like(x, 9.0), torch.full_like(x, 9.0)
        other = residual.data_ptr() if with_residual else 0
        MODULE.add_rms_norm(x.data_ptr(), other, total.data_ptr(), weight.data_ptr(), y.data_ptr(), 3, features, 1e-5)
        want = (x.double() + residual.double()) if with_residual else x.double()
        torch.testing.assert_close(total.double(), want, rtol=2 * EPS, atol=1e-7)
        want = want / (want.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
        torch.testing.assert_close(y.double(), want, rtol=1e-6, atol=1e-6)


def test_rms_norm_in_place_and_without_a_sum(isa):
    x, weight = normal(5, 40), normal(40, seed=3)
    total, y = x.clone(), x.clone()
    delta = normal(5, 40, seed=4)
    out = torch.empty_like(x)
    MODULE.add_rms_norm(
        total.data_ptr(), delta.data_ptr(), total.data_ptr(), weight.data_ptr(), out.data_ptr(), 5, 40, 1e-6
    )
    assert torch.equal(total, x + delta)
    MODULE.add_rms_norm(y.data_ptr(), 0, 0, weight.data_ptr(), y.data_ptr(), 5, 40, 1e-6)
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    torch.testing.assert_close(y.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("depth", [2, 6, 8, 20, 32, 34, 64, 128])
def test_rotary_halves(isa, depth):
    x, angles = normal(4, 3, depth), 7 * normal(4, depth // 2, seed=2)
    cosine, sine, got = angles.cos(), angles.sin(), x.clone()
    MODULE.rotate(got.data_ptr(), 4, 3, depth, cosine.data_ptr(), sine.data_ptr())
    turned = torch.view_as_complex(torch.stack(x.double().chunk(2, -1), -1)) * torch.polar(
        torch.ones_like(angles.double()), angles.double()
    ).unsqueeze(1)
    torch.testing.assert_close(got.double(), torch.cat([turned.real, turned.imag], -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("features", SIZES)
def test_gate_times_up(isa, features, activation):
    both, y = 3 * normal(2, 2 * features), torch.empty(2, features)
    MODULE.gate_multiply(both.data_ptr(), 2, features, ACTIVATIONS.index(activation), y.data_ptr())
    gate, up = both.double().chunk(2, -1)
    torch.testing.assert_close(y.double(), REFERENCE[activation](gate) * up, rtol=1e-5, atol=1e-5)


def cached(k, v, spoiled=float("nan")):
    """One head's keys (tokens, depth) as panels and its values; slots beyond the tokens hold `spoiled`."""
    tokens, depth = k.shape
    room = capacity_for(tokens + 3)
    whole = torch.full((room, depth), spoiled)
    whole[:tokens] = k
    values = torch.full((room, depth), spoiled)
    values[:tokens] = v
    return whole.view(-1, PANEL, depth).transpose(1, 2).contiguous(), values


def attend(q, k, v, past, scale, allowed=None, first=0):
    """(queries, share, depth) from the native kernel."""
    keys, values = cached(k, v)
    y = torch.full_like(q, 9.0)
    MODULE.decode_attention(
        q.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        0 if allowed is None else allowed.data_ptr(),
        y.data_ptr(),
        *q.shape,
        first,
        past,
        scale,
    )
    return y


def expected(q, k, v, past, scale, allowed=None):
    queries, _, _ = q.shape
    seen = torch.ones(queries, k.shape[0], dtype=torch.bool).tril(past)
    if allowed is not None:
        seen = seen & allowed[: k.shape[0]].bool()
    scores = torch.einsum("nsd,kd->nsk", q.double(), k.double()) * scale
    weights = scores.masked_fill(~seen.unsqueeze(1), float("-inf")).softmax(-1).nan_to_num(0.0)
    return weights @ v.double()


@pytest.mark.parametrize("depth", [1, 8, 15, 16, 20, 33, 64, 80, 128])
@pytest.mark.parametrize("share", [1, 2, 3, 5, 8, 11])
def test_attention_over_a_cache_at_every_tile_edge(isa, depth, share):
    for queries, past in [(1, 0), (1, 15), (1, 16), (1, 63), (1, 64), (2, 100), (3, 14), (16, 0), (5, 130)]:
        total = past + queries
        q, k, v = normal(queries, share, depth), normal(total, depth, seed=2), normal(total, depth, seed=3)
        got = attend(q, k, v, past, depth**-0.5)
        torch.testing.assert_close(got.double(), expected(q, k, v, past, depth**-0.5), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("first", [0, 1, 15, 16, 17, 40, 70])
def test_hidden_keys_are_never_read_into_a_result(isa, first):
    queries, past, depth = 4, 50, 24
    total = past + queries
    q, k, v = normal(queries, 3, depth), normal(total, depth, seed=2), normal(total, depth, seed=3)
    allowed = torch.ones(capacity_for(total + 3), dtype=torch.uint8)
    allowed[:first] = 0
    allowed[45] = 0
    want = expected(q, k, v, past, 0.2, allowed)
    for begin in {0, min(first, 3), first}:
        got = attend(q, k, v, past, 0.2, allowed, begin)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=2e-6)
    assert bool(want.abs().sum() > 0) == (first < total)


def test_large_scores_do_not_overflow(isa):
    q, k, v = 100 * normal(1, 4, 32), 100 * normal(70, 32, seed=2), normal(70, 32, seed=3)
    torch.testing.assert_close(attend(q, k, v, 69, 1.0).double(), expected(q, k, v, 69, 1.0), rtol=1e-3, atol=1e-3)
