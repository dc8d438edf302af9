"""Rewriting a captured graph: an addition that only a layer norm reads becomes one operation with it."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten


def value_of(node: object) -> Tensor | None:
    """The traced tensor of a node: its shape (with symbols) and type; None for whatever is no tensor."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def _fits(x: Tensor, residual: Tensor) -> bool:
    """Float32 on the CPU, x of the sum's shape, residual the same or repeating along leading axes."""
    if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in (x, residual)) or residual.dim() > x.dim():
        return False
    shape = list(residual.shape)
    while len(shape) > 1 and _is(shape[0], 1):
        shape = shape[1:]
    return bool(shape) and all(_is(a, b) for a, b in zip(reversed(shape), reversed(x.shape), strict=False))


def _is(a: object, b: object) -> bool:
    """Whether two sizes are surely equal; symbols are compared by their expressions."""
    return str(a) == str(b)


def _summands(norm: Node) -> tuple[Node, Node] | None:
    """(x, residual) of the addition that the layer norm alone reads, if the operation can take them."""
    total = norm.args[0]
    if not isinstance(total, Node) or total.target not in (_aten.add.Tensor, _aten.add_.Tensor) or len(total.users) > 1:
        return None
    if total.kwargs.get("alpha", 1) != 1 or total.target is _aten.add_.Tensor:
        return None
    a, b = total.args[:2]
    left, right = value_of(a), value_of(b)
    if left is None or right is None or not isinstance(a, Node) or not isinstance(b, Node):
        return None
    if _fits(left, right):
        return a, b
    return (b, a) if _fits(right, left) else None


def fuse_norms(graph: GraphModule) -> int:
    """Replaces `layer_norm(a + b)` over the last axis by `rarefy::add_layer_norm`; returns how many were replaced.

    A layer norm of two axes, without weight, of other types, or of a sum that is read elsewhere stays.
    """
    done = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.layer_norm.default:
            continue
        args = [*node.args, None, None, None][:5]
        shape, weight, bias, eps = args[1], args[2], args[3], node.args[4] if len(node.args) > 4 else 1e-5
        pair = _summands(node)
        affine = value_of(weight)
        if pair is None or len(shape) != 1 or affine is None or affine.dtype != torch.float32 or node.kwargs:
            continue
        total = node.args[0]
        with graph.graph.inserting_before(node):
            fused = graph.graph.call_function(
                torch.ops.rarefy.add_layer_norm.default, (*pair, weight, bias, float(eps))
            )
        fused.meta.update(node.meta)
        node.replace_all_uses_with(fused)
        graph.graph.erase_node(node)
        graph.graph.erase_node(total)
        done += 1
    return done
