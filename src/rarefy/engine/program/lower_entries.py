"""Steps for what is computed entry by entry, and for embeddings."""

from collections.abc import Mapping

import torch
from torch.fx import Node

from rarefy.engine.program.builder import Builder
from rarefy.engine.program.facts import Count, Fact, Same
from rarefy.engine.program.lower_layers import emit_norm, norm_arguments, norm_fits
from rarefy.engine.program.lowering import lowers
from rarefy.engine.program.sizes import ONE, Size, product
from rarefy.engine.program.values import ABSENT, Part, is_floats, shape_of, traced
from rarefy.ops.packed import ACTIVATIONS

_aten = torch.ops.aten
Facts = Mapping[Node, Fact]
_NAMES: dict[object, str] = {_aten.relu.default: "relu", _aten.silu.default: "silu"}
_BY_ENTRY, COUNTING, _CONSTANT = 0, 1, 2  # how a table is indexed


def _unary_fits(node: Node, facts: Facts) -> bool:
    return is_floats(node) and is_floats(node.args[0])


def _activation(node: Node) -> str:
    if node.target is not _aten.gelu.default:
        return _NAMES[node.target]
    tanh = node.kwargs.get("approximate", "none") == "tanh" or (len(node.args) > 1 and node.args[1] == "tanh")
    return "gelu_tanh" if tanh else "gelu"


@lowers(_aten.gelu.default, _aten.relu.default, _aten.silu.default, fits=_unary_fits, light=True)
def _unary(node: Node, build: Builder) -> None:
    x = build.value(node.args[0])
    build.emit("activate", x.part, x.count, ACTIVATIONS.index(_activation(node)), build.new(node).part)


def _pair(node: Node) -> tuple[Node, Node] | None:
    """(a, b) with the node's shape that of a, and b repeating along leading axes at most."""
    if node.kwargs.get("alpha", 1) != 1 or len(node.args) != 2 or not all(is_floats(x) for x in (node, *node.args)):
        return None
    whole = shape_of(node)
    for a, b in (node.args, node.args[::-1]):
        left, right = shape_of(a), shape_of(b)
        if left is None or right is None or whole is None or left[0] != whole[0]:
            continue
        end = right[0]
        while end and end[0] == ONE and len(end) > 1:
            end = end[1:]
        if end == whole[0][len(whole[0]) - len(end) :]:
            assert isinstance(a, Node) and isinstance(b, Node)
            return a, b
    return None


@lowers(_aten.add.Tensor, _aten.mul.Tensor, fits=lambda node, facts: _pair(node) is not None, light=True)
def _combine(node: Node, build: Builder) -> None:
    """A sum that a layer norm reads, and others too, is computed with the norm in one pass."""
    pair = _pair(node)
    assert pair is not None
    a, b = (build.value(x) for x in pair)
    y = build.new(node)
    norms = [u for u in node.users if u.target is _aten.layer_norm.default and u in build.region]
    if node.target is _aten.add.Tensor and len(norms) == 1 and norm_fits(norms[0], build.facts):
        _, _, weight, bias, eps = norm_arguments(norms[0])
        emit_norm(build, norms[0], a, b, (weight, bias, eps), y.part)
        build.done.add(norms[0])
    else:
        build.emit("combine", node.target is _aten.mul.Tensor, a.part, b.part, a.count, b.count, y.part)


def _embedding_fits(node: Node, facts: Facts) -> bool:
    table, index = node.args[:2]
    value, shape = traced(index), shape_of(index)
    parameter = isinstance(table, Node) and table.op == "get_attr" and is_floats(table)
    return is_floats(node) and parameter and value is not None and shape is not None and value.dtype == torch.int64


def _terms(node: object, region: set[Node], facts: Facts) -> list[Node] | None:
    """The embeddings that a node is the sum of, if it is nothing else and nothing else reads the parts."""
    if not isinstance(node, Node) or node not in region or len(node.users) > 1:
        return None
    if node.target is _aten.embedding.default:
        return [node] if _embedding_fits(node, facts) else None
    if node.target is not _aten.add.Tensor or _pair(node) is None:
        return None
    left, right = (_terms(x, region, facts) for x in node.args[:2])
    return None if left is None or right is None else left + right


def _table(node: Node, build: Builder) -> tuple[Part, int, int, Part, Size, int]:
    """(values, entries, how it is indexed, index, after how many rows that repeats, the only index)."""
    table = build.value(node.args[0])
    index = node.args[1]
    assert isinstance(index, Node)
    fact, shape = build.facts.get(index), shape_of(index)
    assert shape is not None
    entries = table.sizes[0].constant
    if isinstance(fact, Same):
        return table.part, entries, _CONSTANT, ABSENT, ONE, fact.value
    if isinstance(fact, Count) and fact.axis == len(shape[0]) - 1:
        return table.part, entries, COUNTING, ABSENT, shape[0][-1], 0
    return table.part, entries, _BY_ENTRY, build.value(index).part, product(shape[0]), 0


def _emit_embed(node: Node, terms: list[Node], build: Builder, affine: tuple[object, object, object]) -> None:
    weight, bias, eps = affine
    y = build.new(node)
    tables = [_table(term, build) for term in terms]
    features = y.sizes[-1].constant
    parameters = (build.optional(weight), build.optional(bias), eps)
    build.emit("embed", tables, y.rows, features, *parameters, y.part, build.bytes_beside(node, y))


@lowers(_aten.embedding.default, fits=_embedding_fits, light=True)
def _embedding(node: Node, build: Builder) -> None:
    _emit_embed(node, [node], build, (None, None, 0.0))


def absorb_embeddings(node: Node, build: Builder) -> bool:
    """Emits a layer norm of a sum of embeddings as one step; False if the node is none."""
    if node.target is torch.ops.rarefy.add_layer_norm.default:
        sources: list[object] = [x for x in node.args[:2] if x is not None]
        affine: tuple[object, ...] = node.args[2:5]
    elif node.target is _aten.layer_norm.default:
        x, _, weight, bias, eps = norm_arguments(node)
        sources, affine = [x], (weight, bias, eps)
    else:
        return False
    found = [_terms(source, build.region, build.facts) for source in sources]
    terms = [term for some in found if some is not None for term in some]
    if any(some is None for some in found) or not 1 <= len(terms) <= 4:
        return False
    _emit_embed(node, terms, build, affine)  # type: ignore[arg-type]
    return True


def absorbed_by(node: Node, region: set[Node], facts: Facts) -> set[Node]:
    """The nodes that `absorb_embeddings` computes along with a node."""
    if node.target not in (torch.ops.rarefy.add_layer_norm.default, _aten.layer_norm.default):
        return set()
    sources = [x for x in node.args[: 2 if node.target is not _aten.layer_norm.default else 1] if x is not None]
    found = [_terms(source, region, facts) for source in sources]
    if any(some is None for some in found) or sum(len(some) for some in found if some) > 4:
        return set()
    inside: set[Node] = set()
    waiting = [source for source in sources if isinstance(source, Node)]
    while waiting:
        at = waiting.pop()
        inside.add(at)
        if at.target is _aten.add.Tensor:
            waiting += [x for x in at.args[:2] if isinstance(x, Node)]
    return inside


def _bytes_fits(node: Node, facts: Facts) -> bool:
    before, after = traced(node.args[0]), traced(node)
    if before is None or after is None or shape_of(node) is None or shape_of(node.args[0]) is None:
        return False
    return before.dtype == torch.int64 and after.dtype == torch.bool


@lowers(_aten.to.dtype, _aten.to.device, _aten.to.dtype_layout, fits=_bytes_fits, light=True)
def _bytes(node: Node, build: Builder) -> None:
    x = build.value(node.args[0])
    build.emit("not_zero", x.part, x.count, build.new(node).part)
