"""Rewriting a captured graph: a mask that only repeats a smaller one becomes views of that one."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from rarefy.engine.program.facts import Fact, Same, Spread, facts_of

_aten = torch.ops.aten
_ATTENTIONS = (_aten.scaled_dot_product_attention.default, torch.ops.rarefy.attention.default)


def simplify_masks(graph: GraphModule) -> int:
    """Replaces masks of attention that hide nothing, or that repeat a mask over keys; returns how many nodes changed.

    The mask that transformers' encoders make is (batch, 1, queries, keys), copied from one over (batch, keys) by some
    twenty operations; attention broadcasts the small one itself.
    """
    facts, done = facts_of(graph), 0
    made: dict[tuple[Node, tuple[int, ...]], Node] = {}
    for node in list(graph.graph.nodes):
        if node.target not in _ATTENTIONS or len(node.args) < 4 or not isinstance(node.args[3], Node):
            continue
        mask = node.args[3]
        value = mask.meta.get("val")
        fact = facts.get(mask)
        if not isinstance(value, Tensor) or value.dtype != torch.bool or fact is None:
            continue
        if isinstance(fact, Same) and fact.value:
            node.update_arg(3, None)
            done += 1
        elif _shorter(fact, mask):
            assert isinstance(fact, Spread)
            key = (fact.source, fact.axes)
            if key not in made:
                made[key] = _views(graph, fact)
            node.update_arg(3, made[key])
            done += 1
    return done


def _shorter(fact: Fact, mask: Node) -> bool:
    """A spread of another node, in the order of its axes, that reaches the last axis."""
    return (
        isinstance(fact, Spread)
        and fact.source is not mask
        and list(fact.axes) == sorted(fact.axes)
        and bool(fact.axes)
        and fact.axes[-1] == fact.rank - 1
    )


def _views(graph: GraphModule, fact: Spread) -> Node:
    """The source with axes of one entry where the spread only repeats."""
    out = fact.source
    for axis in range(fact.axes[0], fact.rank):
        if axis in fact.axes:
            continue
        value = out.meta["val"].unsqueeze(axis - fact.axes[0])
        with graph.graph.inserting_after(out):
            out = graph.graph.call_function(_aten.unsqueeze.default, (out, axis - fact.axes[0]))
        out.meta["val"] = value
    return out
