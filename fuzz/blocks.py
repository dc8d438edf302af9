"""What stands between the products: attention of both types, norms, gates, rotation, bytes of rows, the cache."""

import os
import random

import torch
import torch.nn.functional as F
from draw import normal, seeded, size, spoil, threads
from guard import empty, guarded, outputs
from torch import Tensor

from rarefy.ops import native, quantize
from rarefy.ops.attention import attention, attention8
from rarefy.ops.decoder import PANEL, capacity_for
from rarefy.ops.packed import ACTIVATIONS
from rarefy.ops.reference import ACTIVATIONS as REFERENCE


def case(rng: random.Random) -> None:
    levels = native.LEVELS[: native.LEVELS.index(_highest()) + 1]
    os.environ["RAREFY_ISA"] = rng.choice(levels)
    try:
        threads(rng)
        rng.choice((_attention, _attention, _layer_norm, _rms_norm, _rotate, _gate, _bytes, _cached))(rng)
    finally:
        del os.environ["RAREFY_ISA"]


def _highest() -> str:
    return str(native.module().isa())


def _heads(rng: random.Random, batch: int, heads: int, tokens: int, depth: int) -> Tensor:
    """(batch, heads, tokens, depth), contiguous or a view of a projection."""
    if rng.random() < 0.5:
        return normal(rng, batch, heads, tokens, depth)
    return normal(rng, batch, tokens, heads, depth).transpose(1, 2)


def _mask(rng: random.Random, full: tuple[int, ...]) -> Tensor | None:
    kind = rng.choice(("none", "keys", "bool", "float"))
    shape = [size_ if rng.random() < 0.5 else 1 for size_ in full]
    if kind == "none":
        return None
    if kind == "keys":
        shape = [full[0], 1, 1, full[3]]
    allowed = guarded(torch.rand(shape, generator=seeded(rng)) < 0.7)
    return allowed if kind != "float" else guarded(torch.where(allowed, 0.3, float("-inf")))


def _attention(rng: random.Random) -> None:
    batch, heads = rng.randint(0, 3), rng.randint(1, 3)
    queries, keys, depth = size(rng, 140), size(rng, 260), rng.choice((1, 5, 8, 15, 16, 24, 32, 48, 64, 80, 128))
    q, k, v = (_heads(rng, batch, heads, n, depth) for n in (queries, keys, keys))
    mask, scale = _mask(rng, (batch, heads, queries, keys)), rng.choice((depth**-0.5, 0.1, 1.0))
    with outputs():
        got, eight = attention(q, k, v, mask, scale), attention8(q, k, v, mask, scale)
    scores = q.double() @ k.double().transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1).nan_to_num(0.0)
    want = weights @ v.double()
    # the scores' own rounding, then the exponential's
    room = 1e-5 + 4e-7 * (depth + keys) * (
        1 + scores.masked_fill(scores.isinf(), 0).abs().amax() if scores.numel() else 0
    )
    assert got.shape == want.shape and not ((got - want).abs() > room * 4).any() and not got.isnan().any()
    assert eight.shape == want.shape and not eight.isnan().any()
    if keys and scale < 0.5 and v.numel() and q.numel():
        # two roundings of scores to 1/127 of their largest each, and of weights to 1/255 of the largest
        off = 0.02 + scale * 0.012 * float(q.norm(dim=-1).max() * k.norm(dim=-1).max())
        assert not ((eight - want).abs() > off * v.abs().max() * 4).any()
    if rng.random() < 0.2:
        spoil(rng, q)
        with outputs():
            attention(q, k, v, mask, scale), attention8(q, k, v, mask, scale)


def _layer_norm(rng: random.Random) -> None:
    rows, features = size(rng, 70), size(rng, 600, 1)
    x, weight = normal(rng, rows, features), normal(rng, features)
    residual = rng.choice((None, normal(rng, rows, features), normal(rng, features)))
    bias = normal(rng, features) if rng.random() < 0.7 else None
    with outputs():
        got = torch.ops.rarefy.add_layer_norm(x, residual, weight, bias, 1e-5)
    total = x.double() if residual is None else x.double() + residual.double()
    want = F.layer_norm(total, (features,), weight.double(), None if bias is None else bias.double(), 1e-5)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    spoil(rng, x)
    with outputs():
        broken = torch.ops.rarefy.add_layer_norm(x, residual, weight, bias, 1e-5)
    fine = x.isfinite().all(1) & (x.abs() < 1e30).all(1) & (x.double() == (total if residual is None else x)).all(1)
    assert broken[fine].isfinite().all()


def _rms_norm(rng: random.Random) -> None:
    rows, features = size(rng, 20), size(rng, 400, 1)
    x, weight = normal(rng, rows, features), normal(rng, features)
    residual = normal(rng, rows, features) if rng.random() < 0.5 else None
    total, y = empty((rows, features)), empty((rows, features))
    native.module().add_rms_norm(
        x.data_ptr(), 0 if residual is None else residual.data_ptr(), total.data_ptr(), weight.data_ptr(),
        y.data_ptr(), rows, features, 1e-5,
    )  # fmt: skip
    want = x.double() if residual is None else x.double() + residual.double()
    torch.testing.assert_close(total.double(), want, rtol=1e-6, atol=1e-6)
    want = want / (want.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)


def _rotate(rng: random.Random) -> None:
    tokens, heads, depth = size(rng, 9), rng.randint(1, 5), 2 * size(rng, 70, 1)
    x, angles = normal(rng, tokens, heads, depth), normal(rng, tokens, depth // 2)
    cosine, sine, got = guarded(angles.cos()), guarded(angles.sin()), guarded(x)
    native.module().rotate(got.data_ptr(), tokens, heads, depth, cosine.data_ptr(), sine.data_ptr())
    (a, b), c, s = x.double().chunk(2, -1), cosine.double().unsqueeze(1), sine.double().unsqueeze(1)
    torch.testing.assert_close(got.double(), torch.cat([a * c - b * s, b * c + a * s], -1), rtol=1e-5, atol=1e-5)


def _gate(rng: random.Random) -> None:
    rows, features, activation = size(rng, 9), size(rng, 300, 1), rng.choice(ACTIVATIONS)
    both, y = normal(rng, rows, 2 * features).mul_(3), empty((rows, features))
    native.module().gate_multiply(both.data_ptr(), rows, features, ACTIVATIONS.index(activation), y.data_ptr())
    gate, up = both.double().chunk(2, -1)
    torch.testing.assert_close(y.double(), REFERENCE[activation](gate) * up, rtol=1e-5, atol=2e-5)


def _bytes(rng: random.Random) -> None:
    x = normal(rng, size(rng, 70), size(rng, 700)).mul_(rng.choice((1.0, 1e-30, 1e30, 1e-3)))
    if rng.random() < 0.5:
        spoil(rng, x)
    with outputs():
        values, scale, zero = torch.ops.rarefy.quantize_rows(x)
    want = quantize._reference(
        torch.where(x.abs() < torch.finfo(torch.float32).tiny, 0.0, x)
    )  # denormals count as zero
    fine = x.isfinite().all(1)
    for got, right in zip((values, scale, zero), want, strict=True):
        assert torch.equal(got[fine], right[fine])
    assert zero.ge(0).all() and zero.le(255).all()


def _cached(rng: random.Random) -> None:
    queries, share, depth = rng.choice((1, 1, 2, 5, 16)), rng.randint(1, 9), size(rng, 130, 1)
    past = size(rng, 200)
    total, scale = past + queries, depth**-0.5
    q, k, v = (normal(rng, *shape) for shape in ((queries, share, depth), (total, depth), (total, depth)))
    room = capacity_for(total + rng.randint(0, 3))
    keys, values = empty((room, depth)), empty((room, depth))
    keys[:total], values[:total] = k, v
    panels = guarded(keys.view(-1, PANEL, depth).transpose(1, 2))
    allowed = guarded((torch.rand(room, generator=seeded(rng)) < 0.8).byte())
    first = rng.randint(0, total)
    allowed[:first] = 0
    hidden = rng.random() < 0.5
    y = empty((queries, share, depth))
    native.module().decode_attention(
        q.data_ptr(), panels.data_ptr(), values.data_ptr(), allowed.data_ptr() if hidden else 0, y.data_ptr(),
        queries, share, depth, first if hidden else 0, past, scale,
    )  # fmt: skip
    seen = torch.ones(queries, total, dtype=torch.bool).tril(past)
    if hidden:
        seen = seen & allowed[:total].bool()
    scores = torch.einsum("nsd,kd->nsk", q.double(), k.double()) * scale
    want = scores.masked_fill(~seen.unsqueeze(1), float("-inf")).softmax(-1).nan_to_num(0.0) @ v.double()
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
