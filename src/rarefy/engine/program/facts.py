"""What is known of the whole numbers and masks in a graph without running it.

A model builds its positions and attention masks from ranges, comparisons and look-ups: dozens of small operations a
call. What they give is mostly one of three things, told apart here by one rule an operation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
_WHOLE = (torch.bool, torch.int32, torch.int64)
_TO_THE_END = 1 << 62


@dataclass(frozen=True)
class Same:
    """Every entry is `value`."""

    value: int


@dataclass(frozen=True)
class Count:
    """An entry is its place along `axis`: 0, 1, 2..."""

    axis: int
    rank: int


@dataclass(frozen=True)
class Spread:
    """An entry is that of `source` whose axis i has the place that `axes[i]` has here; other axes only repeat."""

    source: Node
    axes: tuple[int, ...]
    rank: int


Fact = Same | Count | Spread
Rule = Callable[[Node, dict[Node, Fact]], Fact | None]
_rules: dict[Any, Rule] = {}


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def put(rule: Rule) -> Rule:
        _rules.update(dict.fromkeys(targets, rule))
        return rule

    return put


def facts_of(graph: GraphModule) -> dict[Node, Fact]:
    """The facts of every node of whole numbers or truth values that has one; none is ever a guess."""
    known: dict[Node, Fact] = {}
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dtype not in _WHOLE:
            continue
        if node.op == "get_attr":
            fact = _of_buffer(graph, node)
        elif node.op == "call_function" and node.target in _rules:
            fact = _rules[node.target](node, known)
        else:
            fact = None
        known[node] = Spread(node, tuple(range(value.dim())), value.dim()) if fact is None else fact
    return known


def _rank(node: Node) -> int:
    rank: int = node.meta["val"].dim()
    return rank


def _of_buffer(graph: GraphModule, node: Node) -> Fact | None:
    """A stored tensor that counts along its last axis, or holds one value."""
    tensor: Any = graph
    for part in str(node.target).split("."):
        tensor = getattr(tensor, part)
    if tensor.numel() == 0 or tensor.dim() == 0:
        return None
    if bool((tensor == tensor.flatten()[0]).all()):
        return Same(int(tensor.flatten()[0]))
    counting = torch.arange(tensor.shape[-1]).expand(tensor.shape)
    return Count(tensor.dim() - 1, tensor.dim()) if bool((tensor == counting).all()) else None


def _moved(fact: Fact | None, move: Callable[[int], int], rank: int) -> Fact | None:
    """The fact of a tensor whose axes went elsewhere."""
    if isinstance(fact, Count):
        return Count(move(fact.axis), rank)
    return replace(fact, axes=tuple(map(move, fact.axes)), rank=rank) if isinstance(fact, Spread) else fact


@_rule(_aten.arange.default)
def _arange(node: Node, known: dict[Node, Fact]) -> Fact | None:
    return Count(0, 1) if len(node.args) == 1 else None


@_rule(_aten.new_ones.default, _aten.ones.default)
def _ones(node: Node, known: dict[Node, Fact]) -> Fact | None:
    return Same(1)


@_rule(_aten.unsqueeze.default)
def _unsqueeze(node: Node, known: dict[Node, Fact]) -> Fact | None:
    rank, at = _rank(node), int(node.args[1])  # type: ignore[arg-type]
    at = at % rank
    return _moved(known.get(node.args[0]), lambda axis: axis + (axis >= at), rank)  # type: ignore[arg-type]


@_rule(_aten.expand.default)
def _expand(node: Node, known: dict[Node, Fact]) -> Fact | None:
    added = _rank(node) - _rank(node.args[0])  # type: ignore[arg-type]
    return _moved(known.get(node.args[0]), lambda axis: axis + added, _rank(node))  # type: ignore[arg-type]


@_rule(_aten.slice.Tensor)
def _slice(node: Node, known: dict[Node, Fact]) -> Fact | None:
    """Only from the start; a slice that may be shorter is no longer the source itself, but still counts."""
    fact = known.get(node.args[0])  # type: ignore[arg-type]
    args = (*node.args, *(None,) * (5 - len(node.args)))
    if args[2] not in (None, 0) or args[4] not in (None, 1):
        return fact if isinstance(fact, Same) else None
    whole = args[3] is None or (isinstance(args[3], int) and args[3] >= _TO_THE_END)
    return fact if whole or not isinstance(fact, Spread) else None


@_rule(_aten.to.dtype, _aten.to.dtype_layout, _aten.to.device, _aten._to_copy.default, _aten.clone.default)
def _convert(node: Node, known: dict[Node, Fact]) -> Fact | None:
    """Truth values of numbers are other entries; everything else keeps them."""
    source = node.args[0]
    assert isinstance(source, Node)
    fact, before, after = known.get(source), source.meta["val"].dtype, node.meta["val"].dtype
    if after == torch.bool and before != torch.bool:
        return Same(int(bool(fact.value))) if isinstance(fact, Same) else None
    return fact


@_rule(_aten.add.Tensor)
def _add(node: Node, known: dict[Node, Fact]) -> Fact | None:
    return known.get(node.args[0]) if node.args[1] == 0 and not node.kwargs else None  # type: ignore[arg-type]


@_rule(_aten.ge.Scalar)
def _ge(node: Node, known: dict[Node, Fact]) -> Fact | None:
    fact, bound = known.get(node.args[0]), node.args[1]  # type: ignore[arg-type]
    if isinstance(fact, Count) and isinstance(bound, int) and bound <= 0:
        return Same(1)
    return Same(int(fact.value >= bound)) if isinstance(fact, Same) and isinstance(bound, int) else None


@_rule(_aten.__and__.Tensor, _aten.bitwise_and.Tensor, _aten.logical_and.default)
def _and(node: Node, known: dict[Node, Fact]) -> Fact | None:
    """True gives way to the other side, false to nothing."""
    if node.meta["val"].dtype != torch.bool:
        return None
    for one, other in ((0, 1), (1, 0)):
        fact, rest = known.get(node.args[one]), node.args[other]  # type: ignore[arg-type]
        if isinstance(fact, Same) and fact.value and isinstance(rest, Node):
            added = _rank(node) - _rank(rest)
            return _moved(known.get(rest), lambda axis, by=added: axis + by, _rank(node))  # type: ignore[misc]
    return None


@_rule(_aten.gather.default)
def _gather(node: Node, known: dict[Node, Fact]) -> Fact | None:
    fact = known.get(node.args[0])  # type: ignore[arg-type]
    return fact if isinstance(fact, Same) else None


@_rule(_aten.index.Tensor)
def _index(node: Node, known: dict[Node, Fact]) -> Fact | None:
    """A source indexed by ranges of its own sizes along different axes is the source, spread out."""
    source, indices = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    assert isinstance(source, Node)
    places = [known.get(i) for i in indices if isinstance(i, Node)]
    counts = [place for place in places if isinstance(place, Count)]
    if len(counts) != len(indices) or len(counts) != _rank(source):
        return None
    axes = tuple(count.axis + _rank(node) - count.rank for count in counts)
    ends = zip(axes, source.meta["val"].shape, strict=True)
    if len(set(axes)) != len(axes) or not all(_may_be_one(node.meta["val"].shape[a], size) for a, size in ends):
        return None
    return Spread(source, axes, _rank(node))


def _may_be_one(size: object, other: object) -> bool:
    """Equal, or two symbols that the tracer has not compared: attention refuses masks of another size."""
    symbols = isinstance(size, torch.SymInt) and isinstance(other, torch.SymInt)
    return str(size) == str(other) or (symbols and str(size).isidentifier() and str(other).isidentifier())
