"""Rewriting a captured graph: torch's attention becomes `rarefy::attention` where that computes it, and faster."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node

from rarefy.engine.fuse_norm import value_of
from rarefy.engine.timing import interleaved

_aten = torch.ops.aten
_LOOKS = (_aten.permute.default, _aten.transpose.int, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.alias.default)
_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_DEFAULTS = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False}


def _arguments(node: Node) -> dict[str, object]:
    return {**_DEFAULTS, **dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}


def _why_not(arguments: dict[str, object]) -> str | None:
    """Why torch's operation stays: whatever ours does not compute."""
    q, k, v = (value_of(arguments[name]) for name in ("query", "key", "value"))
    if q is None or k is None or v is None:
        return "unknown shapes"
    if any(t.dim() != 4 or t.dtype != torch.float32 or t.device.type != "cpu" for t in (q, k, v)):
        return "not four axes of float32 on the CPU"
    if arguments["dropout_p"] != 0.0 or arguments["is_causal"] is not False or arguments["enable_gqa"] is not False:
        return "dropout, causal or grouped queries"
    if any(str(q.shape[axis]) != str(t.shape[axis]) for t in (k, v) for axis in (0, 1, 3)):
        return "batch, heads or features differ"
    if not isinstance(q.shape[3], int) or not isinstance(arguments["scale"], float | int | None):
        return "features or scale are not known"
    if arguments["attn_mask"] is None:
        return None
    mask = value_of(arguments["attn_mask"])
    return None if mask is not None and mask.dtype in (torch.bool, torch.float32) else "a mask of another type"


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """The sizes of the example that was traced: a symbol's hint, or the number itself."""
    return tuple(int(size) if isinstance(size, int) else int(size.node.hint) for size in tensor.shape)


def _wins(arguments: dict[str, object], scale: float, known: dict[object, bool]) -> bool:
    """Whether ours is faster at the example's sizes; nodes of the same sizes are timed once."""
    q, k, mask = (value_of(arguments[name]) for name in ("query", "key", "attn_mask"))
    assert q is not None and k is not None
    key = (_sizes(q), _sizes(k), None if mask is None else (_sizes(mask), mask.dtype))
    if key not in known:
        known[key] = _time(
            _sizes(q), _sizes(k), None if mask is None else torch.ones(_sizes(mask), dtype=mask.dtype), scale
        )
    return known[key]


def _time(queries: tuple[int, ...], keys: tuple[int, ...], mask: Tensor | None, scale: float) -> bool:
    def heads(batch: int, heads: int, tokens: int, depth: int) -> Tensor:  # as a projection leaves them
        return torch.randn(batch, tokens, heads, depth, generator=torch.Generator().manual_seed(0)).transpose(1, 2)

    q, k, v = heads(*queries), heads(*keys), heads(*keys)
    calls = {
        "torch": partial(F.scaled_dot_product_attention, q, k, v, mask, scale=scale),
        "ours": partial(torch.ops.rarefy.attention, q, k, v, mask, scale),
    }
    with torch.inference_mode():
        return interleaved(calls, rounds=9, warmup=2, seconds=0.5).ratio("ours", "torch") > 1.0


def fuse_attention(graph: GraphModule) -> int:
    """Replaces the attention nodes that `rarefy::attention` computes, and faster; returns how many. All others stay."""
    done = 0
    known: dict[object, bool] = {}
    for node in list(graph.graph.nodes):
        if node.target is not _aten.scaled_dot_product_attention.default:
            continue
        arguments = _arguments(node)
        if _why_not(arguments) is not None:
            continue
        q = value_of(arguments["query"])
        assert q is not None
        scale = 1.0 / math.sqrt(q.shape[3]) if arguments["scale"] is None else float(arguments["scale"])  # type: ignore[arg-type]
        if not _wins(arguments, scale, known):
            continue
        args: tuple[Any, ...] = tuple(arguments[name] for name in ("query", "key", "value", "attn_mask"))
        with graph.graph.inserting_before(node):
            fused = graph.graph.call_function(torch.ops.rarefy.attention.default, (*args, scale))
        fused.meta.update(node.meta)
        node.replace_all_uses_with(fused)
        graph.graph.erase_node(node)
        _free_views(fused)
        done += 1
    return done


def _free_views(node: Node) -> None:
    """What looks at the output with other sizes may copy it: strides of torch's own output are not those of ours."""
    for user in node.users:
        if user.target in _LOOKS:
            _free_views(user)
        elif user.target is _aten.view.default:
            user.target = _aten.reshape.default
