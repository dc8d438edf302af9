"""Attention against sums in float64: sizes around every tile edge, every kind of mask, every instruction set."""

import itertools

import pytest
import torch
from oracle import EPS, normal

from rarefy import ops
from rarefy.core.errors import DTypeError, ShapeError
from rarefy.ops import native

LEVELS = ("scalar", "avx2", "avx512", "vnni", "vbmi2", "amx")
IN_FORCE = native.module().isa() if ops.available() else None
ISAS = LEVELS[: LEVELS.index(IN_FORCE) + 1] if IN_FORCE else ()
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
BATCH, HEADS = 2, 3


@pytest.fixture(params=[*ISAS, "reference"])
def isa(request, monkeypatch):
    """Each instruction set in turn (it is asked for at every call), and the path in torch."""
    if request.param == "reference":
        monkeypatch.setattr(native, "module", lambda: None)
    else:
        monkeypatch.setenv("RAREFY_ISA", request.param)
        assert native.module().isa() == request.param
    return request.param


def heads(tokens, depth, seed, batch=BATCH):
    return normal(batch, tokens, HEADS * depth, seed=seed).view(batch, tokens, HEADS, depth).transpose(1, 2)


def masks(queries, keys):
    """One mask of every broadcast form, bool and float; the first query of the full ones may attend to nothing."""
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    for b, h, q, k in itertools.product((1, BATCH), (1, HEADS), (1, queries), (keys,)):
        keep = torch.rand(b, h, q, k, generator=generator) < 0.7
        if q > 1:
            keep[0, 0, 0] = False
        yield keep
        yield torch.randn(b, h, q, k, generator=generator).masked_fill(~keep, float("-inf"))
    yield torch.rand(keys, generator=generator) < 0.5
    yield torch.ones(BATCH, 1, queries, 1, dtype=torch.bool)


def expected(q, k, v, mask, scale):
    """(output, bound): softmax(scale q k^T + mask) v in float64, and what float32 may be off by.

    A score s is off by eps * (d + 3) * sum|q k| + eps |s - largest|; its weight by that share, and 1e-7 of its own.
    """
    q, k, v = q.double(), k.double(), v.double()
    scores = scale * (q @ k.transpose(-1, -2))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask.double()
    weights = scores.softmax(-1).nan_to_num(0.0)
    size = (scale * (q.abs() @ k.abs().transpose(-1, -2))).amax(-1, keepdim=True)
    spread = scores.masked_fill(scores.isinf(), 0.0).abs().amax(-1, keepdim=True)
    share = 2 * EPS * ((q.shape[-1] + 3) * size + 4 * spread + k.shape[-2] + 8) + 2e-7
    return weights @ v, share * (weights @ v.abs()) * 2 + 1e-30


def assert_close(got, q, k, v, mask, scale):
    want, bound = expected(q, k, v, mask, scale)
    assert got.dtype == torch.float32 and got.shape == want.shape
    excess = (got.double() - want).abs() - bound
    assert excess.max() <= 0, f"off by {excess.max():.2e} beyond the bound"


@pytest.mark.parametrize("depth", [1, 8, 15, 17, 32, 33, 48, 64, 100])
def test_sizes_around_every_tile_edge(isa, depth):
    for queries, keys in [(1, 1), (2, 17), (15, 2), (16, 16), (17, 15), (24, 64), (25, 65), (127, 129), (129, 128)]:
        q, k, v = heads(queries, depth, 1), heads(keys, depth, 2), heads(keys, depth, 3)
        scale = depth**-0.5
        assert_close(torch.ops.rarefy.attention(q, k, v, None, scale), q, k, v, None, scale)


def test_what_a_query_gets_does_not_depend_on_how_many_there_are(isa):
    """Queries go in tiles, the last ones in smaller tiles. Torch's product of one row adds in another order."""
    q, k, v = heads(27, 32, 1), heads(70, 32, 2), heads(70, 32, 3)
    mask = torch.randn(27, 70, generator=torch.Generator().manual_seed(4))
    whole = torch.ops.rarefy.attention(q, k, v, mask, 0.2)
    for queries in range(1, 27):
        got = torch.ops.rarefy.attention(q[:, :, :queries], k, v, mask[:queries], 0.2)
        if isa == "reference":
            torch.testing.assert_close(got, whole[:, :, :queries])
        else:
            assert torch.equal(got, whole[:, :, :queries])


def test_a_mask_that_hides_nothing_changes_nothing(isa):
    q, k, v = heads(27, 32, 1), heads(70, 32, 2), heads(70, 32, 3)
    bare = torch.ops.rarefy.attention(q, k, v, None, 0.2)
    for mask in (torch.ones(70, dtype=torch.bool), torch.zeros(70), torch.zeros(27, 70)):
        torch.testing.assert_close(torch.ops.rarefy.attention(q, k, v, mask, 0.2), bare, rtol=0, atol=1e-6)
    mask = torch.zeros(70)
    mask[69] = float("nan")
    assert torch.ops.rarefy.attention(q, k, v, mask, 0.2).isnan().all()
    mask[69] = -1.0
    assert_close(torch.ops.rarefy.attention(q, k, v, mask, 0.2), q, k, v, mask, 0.2)


@pytest.mark.parametrize(("queries", "keys"), [(1, 16), (7, 15), (26, 33), (49, 129)])
def test_every_kind_of_mask(isa, queries, keys):
    q, k, v = heads(queries, 33, 1), heads(keys, 33, 2), heads(keys, 33, 3)
    for mask in masks(queries, keys):
        assert_close(torch.ops.rarefy.attention(q, k, v, mask, 0.2), q, k, v, mask, 0.2)


def test_a_query_that_may_attend_to_nothing_gives_zeros_as_in_torch(isa):
    q, k, v = heads(9, 16, 1), heads(20, 16, 2), heads(20, 16, 3)
    keep = torch.ones(9, 20, dtype=torch.bool)
    keep[4] = False
    for mask in (keep, torch.zeros(9, 20).masked_fill(~keep, float("-inf"))):
        got = torch.ops.rarefy.attention(q, k, v, mask, 0.25)
        assert torch.equal(got[:, :, 4], torch.zeros(BATCH, HEADS, 16))
        assert torch.equal(got[:, :, 4], torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)[:, :, 4])
        assert got[:, :, 5].abs().min() > 0


def test_the_lowest_number_as_a_mask_weighs_all_keys_alike(isa):
    """Some models add the lowest float32 instead of -infinity: a query that hides every key then gets their mean."""
    q, k, v = heads(3, 16, 1), heads(20, 16, 2), heads(20, 16, 3)
    got = torch.ops.rarefy.attention(q, k, v, torch.full((1, 1, 3, 20), torch.finfo(torch.float32).min), 0.25)
    torch.testing.assert_close(got, v.mean(2, keepdim=True).expand_as(got), atol=1e-5, rtol=1e-5)


def test_hidden_keys_change_nothing(isa):
    q, k, v = heads(30, 32, 1), heads(70, 32, 2), heads(70, 32, 3)
    keep = torch.arange(70) % 3 != 0
    before = torch.ops.rarefy.attention(q, k, v, keep, 0.2)
    k, v = (torch.where(keep[:, None], t, 1e6 * t) for t in (k, v))
    assert torch.equal(torch.ops.rarefy.attention(q, k, v, keep, 0.2), before)


def test_large_scores_do_not_overflow(isa):
    q, k, v = 100 * heads(10, 32, 1), 100 * heads(40, 32, 2), heads(40, 32, 3)
    assert_close(torch.ops.rarefy.attention(q, k, v, None, 1.0), q, k, v, None, 1.0)


def test_a_nan_reaches_its_query_or_every_query(isa):
    q, k, v = (heads(20, 16, seed).clone() for seed in (1, 2, 3))
    q[0, 1, 7, 3] = float("nan")
    got = torch.ops.rarefy.attention(q, k, v, None, 0.25)
    reached = torch.zeros_like(got, dtype=torch.bool)
    reached[0, 1, 7] = True
    assert torch.equal(got.isnan(), reached)
    k[1, 2, 19, 0] = float("nan")
    assert torch.ops.rarefy.attention(q, k, v, None, 0.25)[1, 2].isnan().all()


def test_strides_are_read_in_place(isa):
    """Views of one merged projection, of tokens-first tensors, and of columns apart."""
    merged = normal(2, 21, 3 * HEADS * 8)
    q, k, v = (t.reshape(2, 21, HEADS, 8).transpose(1, 2) for t in merged.chunk(3, dim=-1))
    first = normal(21, 2, HEADS * 8).view(21, 2, HEADS, 8).permute(1, 2, 0, 3)
    apart = normal(2, HEADS, 21, 16)[..., ::2]
    for views in ((q, k, v), (first, first, first), (apart, k, apart)):
        want = torch.ops.rarefy.attention(*(t.contiguous() for t in views), None, 0.3)
        assert torch.equal(torch.ops.rarefy.attention(*views, None, 0.3), want)
        assert_close(want, *views, None, 0.3)


def test_empty_sizes(isa):
    for queries, keys in ((0, 5), (5, 0)):
        q, k = heads(queries, 8, 1), heads(keys, 8, 2)
        got = torch.ops.rarefy.attention(q, k, k, None, 1.0)
        assert got.shape == (BATCH, HEADS, queries, 8)
        assert not got.any()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_results_do_not_depend_on_the_number_of_threads(batch):
    q, k, v = heads(200, 32, 1, batch), heads(90, 32, 2, batch), heads(90, 32, 3, batch)
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(torch.ops.rarefy.attention(q, k, v, None, 0.2))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_the_output_needs_no_copy_to_become_tokens_first():
    got = torch.ops.rarefy.attention(*(heads(9, 8, s) for s in (1, 2, 3)), None, 1.0)
    assert got.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("kind", [None, "bool", "float"])
def test_opcheck_and_gradients(kind):
    q, k, v = (normal(2, 3, n, 4, seed=n).requires_grad_() for n in (5, 6, 6))
    mask = {None: None, "bool": normal(2, 1, 5, 6) > -0.5, "float": normal(1, 3, 1, 6).requires_grad_()}[kind]
    torch.library.opcheck(torch.ops.rarefy.attention.default, (q, k, v, mask, 0.5), test_utils=CHECKS)
    leaves = [q, k, v] + ([mask] if kind == "float" else [])
    grad = normal(2, 3, 5, 4, seed=9)
    torch.ops.rarefy.attention(q, k, v, mask, 0.5).backward(grad)
    mine = [t.grad.double() for t in leaves]
    twins = [t.detach().double().requires_grad_() for t in leaves]
    mask64 = twins[3] if kind == "float" else mask
    scores = twins[0] @ twins[1].transpose(-1, -2) * 0.5
    if mask64 is not None:
        scores = scores.masked_fill(~mask64, float("-inf")) if kind == "bool" else scores + mask64
    (scores.softmax(-1) @ twins[2]).backward(grad.double())
    for a, b in zip(mine, twins, strict=True):
        torch.testing.assert_close(a, b.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"q": torch.zeros(2, 3, 4, 9)}, ShapeError, "one d"),
        ({"k": torch.zeros(2, 3, 5, 8)}, ShapeError, "twice"),
        ({"q": torch.zeros(2, 4, 4, 8)}, ShapeError, "number of heads"),
        ({"q": torch.zeros(3, 4, 8)}, ShapeError, "batch, heads"),
        ({"v": torch.zeros(2, 3, 6, 8, dtype=torch.float64)}, DTypeError, "v.float"),
        ({"mask": torch.zeros(2, 3, 4, 5)}, ShapeError, "broadcast"),
        ({"mask": torch.zeros(1, 2, 3, 4, 6)}, ShapeError, "broadcast"),
        ({"mask": torch.zeros(4, 6, dtype=torch.int64)}, DTypeError, "mask"),
    ],
)
def test_refusals(change, error, says):
    args = {"q": torch.zeros(2, 3, 4, 8), "k": torch.zeros(2, 3, 6, 8), "v": torch.zeros(2, 3, 6, 8), "mask": None}
    with pytest.raises(error, match=says):
        torch.ops.rarefy.attention(**(args | change), scale=1.0)
