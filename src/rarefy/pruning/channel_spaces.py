"""Which tensors of a network share an order of channels: found by following the captured graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
_SAME = {  # operations of each channel by itself
    _aten.relu, _aten.relu_, _aten.relu6, _aten.hardtanh, _aten.hardtanh_, _aten.silu, _aten.silu_, _aten.gelu,
    _aten.hardswish, _aten.hardswish_, _aten.sigmoid, _aten.dropout, _aten.max_pool2d, _aten.avg_pool2d,
    _aten.adaptive_avg_pool2d,
}  # fmt: skip
_SHAPED = {_aten.flatten, _aten.view, _aten.reshape, _aten.mean}
_BOTH = {_aten.add, _aten.add_, _aten.mul, _aten.mul_}


@dataclass
class Space:
    """Tensors whose entries along one axis are the same channels.

    makers: weights of the layers that make them (axis 0); rows: all tensors along axis 0, makers among them;
    columns: tensors whose axis 1 they are: weights that read them, and embedding tables, which are in `tables` too.
    fixed: something else knows the order, so it has to stay.
    """

    size: int
    makers: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    fixed: bool = False
    tables: set[int] = field(default_factory=set)  # data_ptr of embedding tables


class _Spaces:
    """The space of each value, joined where values are added."""

    def __init__(self, graph: GraphModule, linear: bool) -> None:
        self.graph, self.linear = graph, linear
        self.axis: dict[Node, int] = {}  # where the channels of a value lie
        self.of: dict[Node, Space] = {}
        self._joined: dict[int, Space] = {}
        self.all: list[Space] = []

    def find(self, space: Space) -> Space:
        while id(space) in self._joined:
            space = self._joined[id(space)]
        return space

    def new(self, node: Node, *, fixed: bool = False, axis: int = 1) -> Space:
        value = node.meta.get("val")
        there = isinstance(value, Tensor) and value.dim() > 1
        size = int(value.shape[axis]) if isinstance(value, Tensor) and there else 0
        self.axis[node] = axis % value.dim() if isinstance(value, Tensor) and there else axis
        space = self.of[node] = Space(size, fixed=fixed or size == 0)
        self.all.append(space)
        return space

    def at(self, node: Any) -> Space | None:
        return self.find(self.of[node]) if isinstance(node, Node) and node in self.of else None

    def join(self, a: Space, b: Space) -> Space:
        if a is not b:
            for name in ("makers", "rows", "columns"):
                getattr(a, name).extend(getattr(b, name))
            a.tables |= b.tables
            a.fixed = a.fixed or b.fixed or a.size != b.size
            self._joined[id(b)] = a
        return a

    def follow(self, node: Node, source: Node, space: Space) -> None:
        """The value has the channels of its source, at the same place."""
        self.of[node], self.axis[node] = space, self.axis[source]

    def last(self, node: Any) -> bool:
        """Whether the channels of a value lie along its last axis."""
        value = node.meta.get("val")
        return isinstance(value, Tensor) and self.axis.get(node) == value.dim() - 1

    def tensor(self, node: Any) -> Tensor | None:
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        value = attrgetter(str(node.target))(self.graph)
        return value if isinstance(value, Tensor) else None

    def fix_inputs(self, node: Node) -> None:
        for given in node.all_input_nodes:
            space = self.at(given)
            if space is not None:
                space.fixed = True


def _convolution(spaces: _Spaces, node: Node) -> None:
    weight, source = spaces.tensor(node.args[1]), spaces.at(node.args[0])
    groups = node.args[6] if len(node.args) > 6 else 1
    if weight is None or source is None:
        return _unknown(spaces, node)
    bias = spaces.tensor(node.args[2]) if len(node.args) > 2 else None
    if groups == 1:
        source.columns.append(weight)
        space = spaces.new(node)
        space.makers.append(weight)
    elif groups == weight.shape[0] == source.size:
        space = source
        given: Any = node.args[0]
        spaces.follow(node, given, source)
    else:
        return _unknown(spaces, node)
    space.rows += [weight] if bias is None else [weight, bias]
    return None


def _linear(spaces: _Spaces, node: Node) -> None:
    weight, source = spaces.tensor(node.args[1]), spaces.at(node.args[0])
    if weight is not None and source is not None and source.size == weight.shape[1] and spaces.last(node.args[0]):
        source.columns.append(weight)
    else:
        spaces.fix_inputs(node)
    space = spaces.new(node, fixed=not spaces.linear or weight is None, axis=-1)
    if spaces.linear and weight is not None:
        bias = spaces.tensor(node.args[2]) if len(node.args) > 2 else None
        space.makers.append(weight)
        space.rows += [weight] if bias is None else [weight, bias]


def _embedding(spaces: _Spaces, node: Node) -> None:
    table = spaces.tensor(node.args[0])
    space = spaces.new(node, fixed=not spaces.linear or table is None, axis=-1)
    if table is not None:
        space.columns.append(table)
        space.tables.add(table.data_ptr())


def _layer_norm(spaces: _Spaces, node: Node, source: Space) -> None:
    shape: Any = node.args[1]
    if not spaces.linear or len(shape) != 1 or not spaces.last(node.args[0]):
        return _unknown(spaces, node)
    source.rows += [t for t in (spaces.tensor(a) for a in node.args[2:4]) if t is not None]
    given: Any = node.args[0]
    return spaces.follow(node, given, source)


def _unknown(spaces: _Spaces, node: Node) -> None:
    spaces.fix_inputs(node)
    spaces.new(node, fixed=True)


def _pooled_away(node: Node) -> bool:
    """Whether a reshape or mean only drops a height and width of one, so that channels stay along axis 1."""
    source: Any = node.args[0]
    axes: Any = node.args[1] if len(node.args) > 1 else ()
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.dim() != 4:
        return False
    kind = getattr(node.target, "overloadpacket", None)
    if kind is _aten.mean:
        return sorted(d % 4 for d in axes) == [2, 3]
    return tuple(before.shape[2:]) == (1, 1) and tuple(after.shape[:2]) == tuple(before.shape[:2])


def _visit(spaces: _Spaces, node: Node) -> None:
    kind = getattr(node.target, "overloadpacket", None)
    given: Any = node.args[0] if node.args else None
    source = spaces.at(given)
    if kind is _aten.conv2d:
        _convolution(spaces, node)
    elif kind is _aten.linear:
        _linear(spaces, node)
    elif kind is _aten.embedding:
        _embedding(spaces, node)
    elif kind is _aten.layer_norm and source is not None:
        _layer_norm(spaces, node, source)
    elif kind is _aten.batch_norm and source is not None:
        source.rows += [t for t in (spaces.tensor(a) for a in node.args[1:5]) if t is not None]
        spaces.follow(node, given, source)
    elif source is not None and kind in _SAME:
        spaces.follow(node, given, source)
    elif source is not None and kind in _SHAPED and _pooled_away(node):
        spaces.of[node], spaces.axis[node] = source, 1
    elif kind in _BOTH and source is not None and _same_place(spaces, node):
        other = spaces.at(node.args[1])
        assert other is not None
        spaces.follow(node, given, spaces.join(source, other))
    else:
        _unknown(spaces, node)


def _same_place(spaces: _Spaces, node: Node) -> bool:
    """Whether both operands of a sum or product have channels, along the same axis of the same shape."""
    a, b = node.args[:2]
    if not (isinstance(a, Node) and isinstance(b, Node)) or spaces.at(b) is None:
        return False
    shapes = [n.meta["val"].shape for n in (a, b)]
    return spaces.axis[a] == spaces.axis[b] and shapes[0] == shapes[1]


def _shared(found: Sequence[Space]) -> None:
    """Fixes the spaces that use one tensor on the same side: a layer that is called twice has one order only."""
    for side in ("rows", "columns"):
        users: dict[int, dict[int, Space]] = {}
        for space in found:
            for tensor in getattr(space, side):
                users.setdefault(tensor.data_ptr(), {})[id(space)] = space
        for several in (u for u in users.values() if len(u) > 1):
            for space in several.values():
                space.fixed = True


def channel_spaces(
    model: nn.Module, example: tuple[Any, ...], keywords: dict[str, Any], *, linear: bool = False
) -> Iterator[Space]:
    """The spaces whose channels may be put into another order without changing what the model computes.

    linear: follow outputs of linear layers, embeddings and layer norms too, not convolutions alone.
    Raises whatever `torch.export` raises for a model that it does not take.
    """
    if isinstance(model, nn.Sequential) and keywords:  # torch 2.6 does not export one that is called by keyword
        example, keywords = (*example, *keywords.values()), {}
    graph = torch.export.export(model.eval(), example, keywords, strict=False).module()  # as the engine captures
    assert isinstance(graph, GraphModule)
    spaces = _Spaces(graph, linear)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            spaces.new(node, fixed=True)
        elif node.op == "call_function":
            _visit(spaces, node)
        elif node.op == "output":
            spaces.fix_inputs(node)
    seen = list({id(s): s for s in map(spaces.find, spaces.all)}.values())
    _shared(seen)
    yield from (s for s in seen if not s.fixed and (s.makers or s.tables))


def reorder(space: Space, order: Tensor) -> None:
    """Puts the channels of a space into another order, in everything that makes or reads them, in place."""
    with torch.no_grad():
        for tensor in {t.data_ptr(): t for t in space.rows}.values():
            tensor.copy_(tensor[order].clone())
        for tensor in {t.data_ptr(): t for t in space.columns}.values():
            tensor.copy_(tensor[:, order].clone())
