"""The layers one by one in torch: for prompts whose layers are faster dense, and where there is no native module.

Reads and writes the same cache as the native step, so that the two may follow each other in any order.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.engine.decoder.cache import DecoderCache
from rarefy.engine.decoder.choose import Chosen, activate, linear, stacked
from rarefy.engine.decoder.layer_plan import ChosenLayer, Plan
from rarefy.engine.decoder.structure import Layer, Structure, mask_of
from rarefy.ops.decoder import Norm

Rotary = tuple[Tensor, Tensor]


def norm(x: Tensor, by: Norm | None) -> Tensor:
    """RMS norm or layer norm over the last axis; x itself without one."""
    if by is None:
        return x
    if by.rms:
        return by.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + by.eps))
    return F.layer_norm(x, (x.shape[-1],), by.weight, by.bias, by.eps)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """x (batch, heads, tokens, depth) turned by cosine and sine (batch, 1, tokens, depth / 2)."""
    a, b = x.chunk(2, dim=-1)
    cosine, sine = rotary
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def seen_of(cache: DecoderCache, tokens: int, window: int | None) -> Tensor | None:
    """Which keys each new token sees, bool (batch or 1, 1, tokens, past + tokens); None: plainly causal, no past.

    window: how many keys, the token's own the last of them.
    """
    total = cache.length + tokens
    narrow = window is not None and window < total
    if cache.allowed is None and cache.length == 0 and not narrow:
        return None
    seen = torch.ones(tokens, total, dtype=torch.bool).tril(cache.length)[None, None]
    if window is not None and narrow:
        seen = seen.triu(cache.length - window + 1)
    return seen if cache.allowed is None else seen & cache.allowed[:, None, None, :total].bool()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """(batch, heads, tokens, depth), the heads of k and v repeated; zeros for a token that sees nothing."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, scale=scale)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.masked_fill(~mask.any(-1, keepdim=True), 0.0)


def _attend(
    structure: Structure,
    layer: Layer,
    qkv: Tensor,
    cache: DecoderCache,
    index: int,
    rotary: Rotary | None,
    mask: Tensor | None,
) -> Tensor:
    sizes = structure.sizes
    batch, tokens = qkv.shape[:2]
    heads = qkv.view(batch, tokens, -1, sizes.depth).transpose(1, 2)
    q, k, v = heads.split([sizes.heads, sizes.kv_heads, sizes.kv_heads], dim=1)
    q, k = norm(q, layer.q_norm), norm(k, layer.k_norm)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    cache.write(index, k, v)
    if cache.length:
        k, v = cache.read(index, cache.length + tokens)
    return attention(q, k, v, mask, layer.scale).transpose(1, 2).reshape(batch, tokens, -1)


def _mlp(layer: Layer, chosen: ChosenLayer, x: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    if layer.hidden is not None:
        wide = linear(chosen.up[0], x)
        wide = wide * mask_of(layer.hidden, layer.hidden_select, wide, masks)
        return linear(chosen.down, wide * linear(chosen.up[1], x) if layer.gated else wide)
    wide = stacked(chosen.up, x)
    if layer.gated:
        gate, up = wide.chunk(2, dim=-1)
        wide = activate(gate, layer.activation) * up
    return linear(chosen.down, wide)


def turned(by: Chosen | None, x: Tensor) -> Tensor:
    """x in another basis, where there is one."""
    return x if by is None else linear(by, x)


def walk(
    structure: Structure,
    plan: Plan,
    ids: Tensor,
    positions: Tensor,
    cache: DecoderCache,
    table: Rotary | None,
    last_only: bool,
) -> Tensor:
    """Logits (batch, 1 or tokens, vocabulary); the cache gets the keys and values, its length stays."""
    rotary = None if table is None else (table[0][positions].unsqueeze(1), table[1][positions].unsqueeze(1))
    hidden = F.embedding(ids, structure.embedding)
    if structure.widen is not None:
        hidden = structure.widen.dense(hidden)
    if structure.positions is not None:
        hidden = hidden + F.embedding(positions + structure.position_offset, structure.positions)
    seen = {window: seen_of(cache, ids.shape[1], window) for window in structure.windows}
    masks = dict[int, Tensor]()
    for index, (layer, chosen) in enumerate(zip(structure.layers, plan.layers, strict=True)):
        hidden = turned(chosen.turn, hidden)
        x = hidden if layer.norms_behind else norm(hidden, layer.attention_norm)
        masks |= {by.slot: by.choose(x) for by in layer.attention_foresights}
        qkv = stacked(chosen.qkv, x)
        hidden = hidden + linear(
            chosen.out, _attend(structure, layer, qkv, cache, index, rotary, seen[layer.window]), masks
        )
        if layer.norms_behind:
            x = hidden = norm(hidden, layer.attention_norm)
        else:
            x = turned(chosen.mlp_turn, norm(hidden, layer.mlp_norm))
        masks |= {by.slot: by.choose(x) for by in layer.mlp_foresights}
        hidden = hidden + _mlp(layer, chosen, x, masks)
        if layer.norms_behind:
            hidden = norm(hidden, layer.mlp_norm)
    if last_only:
        hidden = hidden[:, -1:]
    hidden = norm(turned(plan.turn, hidden), structure.final_norm)
    return linear(plan.head, hidden if structure.narrow is None else structure.narrow.dense(hidden))
