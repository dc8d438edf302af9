"""`nn.MultiheadAttention` with a layer for each of its projections, and back.

torch's module keeps three projections in one parameter and computes the fourth without calling its layer, so that no
hook sees what goes into any of them: they can be neither calibrated nor replaced.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import ModelError

_PACKED = "in_proj_weight"


class SplitAttention(nn.Module):
    """What an `nn.MultiheadAttention` computes, by the layers `q_proj`, `k_proj`, `v_proj` and `out_proj`.

    Called like it, with the same result to rounding. Nested tensors are not taken.
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = source.embed_dim, source.kdim, source.vdim
        self.num_heads, self.head_dim, self.dropout = source.num_heads, source.head_dim, source.dropout
        self.batch_first, self.add_zero_attn = source.batch_first, source.add_zero_attn
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias, source) for weight, bias in zip(_weights(source), _biases(source), strict=True)
        )
        self.out_proj = _shared(source.out_proj.weight, source.out_proj.bias)
        self.bias_k, self.bias_v = source.bias_k, source.bias_v
        # Transformer layers of torch look at these before they take a path of their own past the module.
        self.in_proj_weight = self.in_proj_bias = None
        self._qkv_same_embed_dim = False
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, weights or None), shaped as `nn.MultiheadAttention` shapes them. is_causal: a hint about
        attn_mask, which has to be given with it."""
        if is_causal and attn_mask is None:
            raise ModelError("SplitAttention: is_causal is a hint about attn_mask; give the mask too")
        single = query.dim() == 2
        if single:
            query, key, value = (t[None] for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        mask = _additive(attn_mask, key_padding_mask, q.shape[0], self.num_heads, q.dtype)
        if self.bias_k is not None and self.bias_v is not None:
            k, v, mask = _longer(k, self.bias_k), _longer(v, self.bias_v), _free_place(mask)
        if self.add_zero_attn:
            nothing = k.new_zeros(1, 1, k.shape[2])
            k, v, mask = _longer(k, nothing), _longer(v, nothing), _free_place(mask)
        heads, weights = self._attend(self._by_head(q), self._by_head(k), self._by_head(v), mask, need_weights)
        out: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _by_head(self, x: Tensor) -> Tensor:
        """(batch, heads, tokens, width of a head)."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights


def split_attention(model: nn.Module) -> tuple[str, ...]:
    """Puts a `SplitAttention` in place of every `nn.MultiheadAttention`; gives their names.

    The parameters keep their values (those of the three projections are copied), so the model computes what it did, to
    rounding, and its attention can be pruned with data, compiled and saved like any other layer. Names in its state
    dict change: split a fresh model before `rarefy.load(path, model=...)`, or go back with `join_attention`. Encoders
    of torch stop turning padded batches into nested tensors: what they give for padding is no longer zero.

    Raises ModelError where the model is itself an `nn.MultiheadAttention`, whose place nobody knows.
    """
    if type(model) is nn.MultiheadAttention:
        raise ModelError("split_attention: the model is an nn.MultiheadAttention itself; give the module that has it")
    names = _replace(model, nn.MultiheadAttention, SplitAttention)
    for module in model.modules():
        if names and isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    return names


def join_attention(model: nn.Module) -> tuple[str, ...]:
    """The way back: `nn.MultiheadAttention` modules with the weights of today, zeros included; gives their names.

    Raises ModelError where a projection is no plain `nn.Linear` any more (a compiled layer, an adapter).
    """
    return _replace(model, SplitAttention, _joined)


def packed_projections(model: nn.Module) -> list[str]:
    """The weights of `nn.MultiheadAttention` modules that are no layer of their own, by name."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found += [f"{path}.{n}".lstrip(".") for n, _ in module.named_parameters(recurse=False) if "weight" in n]
    return found


def _replace(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> tuple[str, ...]:
    """In place; a module that several names reach stays one."""
    made: dict[int, nn.Module] = {}
    names = [name for name, m in model.named_modules(remove_duplicate=False) if type(m) is kind]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        source = getattr(holder, leaf)
        if id(source) not in made:
            made[id(source)] = make(source)
        setattr(holder, leaf, made[id(source)])
    return tuple(names)


def _weights(source: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    packed = source._parameters[_PACKED]
    if packed is not None:
        return packed.chunk(3)
    found = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
    assert all(w is not None for w in found)
    return found


def _biases(source: nn.MultiheadAttention) -> tuple[Tensor | None, ...]:
    bias = source.in_proj_bias
    return (None, None, None) if bias is None else tuple(bias.chunk(3))


def _linear(weight: Tensor, bias: Tensor | None, source: nn.MultiheadAttention) -> nn.Linear:
    packed = source._parameters[_PACKED]
    wanted = packed.requires_grad if packed is not None else weight.requires_grad
    own = nn.Parameter(weight.detach().clone(), requires_grad=wanted)
    shift = source.in_proj_bias
    return _shared(own, None if bias is None else nn.Parameter(bias.detach().clone(), shift.requires_grad))


def _shared(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    return layer


def _joined(split: SplitAttention) -> nn.MultiheadAttention:
    parts = (split.q_proj, split.k_proj, split.v_proj, split.out_proj)
    for name, part in zip(("q_proj", "k_proj", "v_proj", "out_proj"), parts, strict=True):
        if type(part) is not nn.Linear:
            raise ModelError(
                f"join_attention: {name} is a {type(part).__name__}, no nn.Linear; take what was put there off first"
            )
    weights, biases = [p.weight.detach() for p in parts[:3]], [p.bias for p in parts[:3]]
    made = nn.MultiheadAttention(
        split.embed_dim,
        split.num_heads,
        split.dropout,
        bias=biases[0] is not None,
        add_bias_kv=split.bias_k is not None,
        add_zero_attn=split.add_zero_attn,
        kdim=split.kdim,
        vdim=split.vdim,
        batch_first=split.batch_first,
        device="meta",
    )
    grad = parts[0].weight.requires_grad
    if made._parameters[_PACKED] is not None:
        made.in_proj_weight = nn.Parameter(torch.cat(weights), grad)
    else:
        made.q_proj_weight, made.k_proj_weight, made.v_proj_weight = (nn.Parameter(w.clone(), grad) for w in weights)
    if biases[0] is not None:
        made.in_proj_bias = nn.Parameter(torch.cat([b.detach() for b in biases]), biases[0].requires_grad)
    made.out_proj.weight, made.out_proj.bias = parts[3].weight, parts[3].bias
    made.bias_k, made.bias_v = split.bias_k, split.bias_v
    return made.train(split.training)


def _additive(
    attn_mask: Tensor | None, padding: Tensor | None, batch: int, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Both masks as one that is added to the scores (batch or 1, heads or 1, queries or 1, keys)."""
    mask = None
    if attn_mask is not None:
        mask = _floats(attn_mask, dtype)
        mask = mask[None, None] if mask.dim() == 2 else mask.unflatten(0, (batch, heads))
    if padding is not None:
        hidden = _floats(padding, dtype)[:, None, None]
        mask = hidden if mask is None else mask + hidden
    return mask


def _floats(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention may look, -inf where a bool mask says True."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def _longer(x: Tensor, more: Tensor) -> Tensor:
    """x (batch, tokens, width) and one more token in every text."""
    return torch.cat([x, more.expand(len(x), 1, -1)], dim=1)


def _free_place(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else F.pad(mask, (0, 1))
