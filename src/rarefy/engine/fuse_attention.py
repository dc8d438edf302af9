"""Rewriting a captured graph: `scaled_dot_product_attention` becomes `rarefy::attention`, which reads its views in place."""

import math

import torch
from torch.fx import GraphModule, Node

from rarefy.engine.fuse_norm import value_of

_aten = torch.ops.aten
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


def fuse_attention(graph: GraphModule) -> int:
    """Replaces the attention nodes that `rarefy::attention` computes; returns how many. All others stay."""
    done = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.scaled_dot_product_attention.default:
            continue
        arguments = _arguments(node)
        if _why_not(arguments) is not None:
            continue
        q = value_of(arguments["query"])
        assert q is not None
        scale = 1.0 / math.sqrt(int(q.shape[3])) if arguments["scale"] is None else arguments["scale"]
        args = tuple(arguments[name] for name in ("query", "key", "value", "attn_mask"))
        with graph.graph.inserting_before(node):
            fused = graph.graph.call_function(torch.ops.rarefy.attention.default, (*args, float(scale)))  # type: ignore[arg-type]
        fused.meta.update(node.meta)
        node.replace_all_uses_with(fused)
        graph.graph.erase_node(node)
        done += 1
    return done
