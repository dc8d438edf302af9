"""Packed layers that read one input for one attention as one layer: it is read once, and threads are woken once."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from rarefy.core.quantized import QuantizedWeight
from rarefy.ops import PackedWeight, native, pack
from rarefy.ops.packed import find

_aten, _ours = torch.ops.aten, torch.ops.rarefy
_VIEWS = (_aten.view.default, _aten.transpose.int, _aten.permute.default, _aten.unsqueeze.default)


def merge_same_input(graph: GraphModule) -> int:
    """Replaces such layers, of one family of kernels and one scale of inputs, by one and views of it; how many."""
    families = {k.name: (k.op, k.weights, k.activations) for k in native.kernels()}
    readers: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.graph.nodes:
        if node.target is _ours.packed_linear.default and (reads := _attention_of(node)) is not None:
            packed = find(node.args[1])
            key = (
                node.args[0],
                node.args[2] is None,
                node.args[3],
                families.get(packed.kernel),
                packed.input_scale,
                *reads,
            )
            readers.setdefault(key, []).append(node)
    groups = [group for group in readers.values() if len(group) > 1]
    for number, group in enumerate(groups):
        _merge(graph, group, f"merged_{number}")
    return len(groups)


def _attention_of(node: Node) -> tuple[Node, ...] | None:
    """The attentions that alone read a node, by way of views; None where anything else does."""
    found: list[Node] = []
    for user in node.users:
        deeper = _attention_of(user) if user.target in _VIEWS else None
        if user.target is _ours.attention.default:
            deeper = (user,)
        if deeper is None:
            return None
        found += deeper
    return tuple(dict.fromkeys(found)) or None


def _joined(weights: Sequence[PackedWeight]) -> Tensor | QuantizedWeight:
    """Their rows, one below the other, as they were packed."""
    stored = [w.unpacked() for w in weights]
    floats = [w for w in stored if isinstance(w, Tensor)]
    whole = [w for w in stored if isinstance(w, QuantizedWeight)]
    if floats:
        return torch.cat(floats)
    return QuantizedWeight(torch.cat([q.values for q in whole]), torch.cat([q.scale for q in whole]), whole[0].bits)


def _merge(graph: GraphModule, group: Sequence[Node], name: str) -> None:
    weights = [find(node.args[1]) for node in group]  # type: ignore[arg-type]
    kernel, _ = Counter(weight.kernel for weight in weights).most_common(1)[0]
    packed = pack(_joined(weights), kernel, input_scale=weights[0].input_scale)
    setattr(graph, name, packed)  # lives while the graph does
    x, _, bias, activation, _ = group[0].args
    with graph.graph.inserting_before(group[0]):
        joined = None if bias is None else _joined_bias(graph, group, f"{name}_bias")
        args = (x, packed.handle, joined, activation, packed.shape[0])
        whole = graph.graph.call_function(_ours.packed_linear.default, args)
        whole.meta["val"] = _traced(whole)
        first = 0
        for node, weight in zip(group, weights, strict=True):
            part = graph.graph.call_function(_aten.slice.Tensor, (whole, -1, first, first + weight.shape[0]))
            part.meta["val"] = _traced(part)
            first += weight.shape[0]
            node.replace_all_uses_with(part)
            _trace_views(part)
    for node in group:
        graph.graph.erase_node(node)


def _joined_bias(graph: GraphModule, group: Sequence[Node], name: str) -> Node:
    biases = [graph.get_parameter(str(node.args[2].target)).detach() for node in group]  # type: ignore[union-attr]
    graph.register_buffer(name, torch.cat(biases), persistent=False)
    node = graph.graph.get_attr(name)
    node.meta["val"] = torch.cat([part.args[2].meta["val"] for part in group])  # type: ignore[union-attr]
    return node


def _traced(node: Node) -> Tensor:
    """What the tracer would see."""
    args = map_arg(node.args, lambda source: source.meta["val"])
    seen: Tensor = node.target(*args)  # type: ignore[operator]
    return seen


def _trace_views(node: Node) -> None:
    for user in node.users:
        if user.target in _VIEWS:
            user.meta["val"] = _traced(user)
            _trace_views(user)
