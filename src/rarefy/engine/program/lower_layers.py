"""Steps for linear layers, norms and attention."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from rarefy.engine.program.builder import Builder
from rarefy.engine.program.facts import Fact
from rarefy.engine.program.lowering import lowering_of, lowers
from rarefy.engine.program.rows8 import NO_BYTES, only_as_bytes, packed_of, takes_bytes
from rarefy.engine.program.sizes import ONE, ZERO, Size
from rarefy.engine.program.values import ABSENT, Part, Value, is_floats, shape_of, traced
from rarefy.ops import native
from rarefy.ops.packed import ACTIVATIONS, PackedWeight, find

_aten, _ours = torch.ops.aten, torch.ops.rarefy
Facts = Mapping[Node, Fact]


def _is_parameter(node: object) -> bool:
    return node is None or (isinstance(node, Node) and node.op == "get_attr" and is_floats(node))


def _packed_fits(node: Node, facts: Facts) -> bool:
    handle = node.args[1]
    assert isinstance(handle, int)
    return (
        is_floats(node)
        and is_floats(node.args[0], contiguous=False)
        and _unit_last(node.args[0])
        and _is_parameter(node.args[2])
        and find(handle).layout is not None
    )


def _unit_last(node: object) -> bool:
    """A tensor of at most four axes whose rows lie without gaps."""
    shape = shape_of(node)
    return shape is not None and 1 <= len(shape[0]) <= 4 and (shape[1][-1] == ONE or shape[0][-1] == ONE)


@lowers(_ours.packed_linear.default, fits=_packed_fits)
def _packed_linear(node: Node, build: Builder) -> None:
    x, handle, bias, activation, _ = node.args
    assert isinstance(handle, int)
    packed = find(handle)
    build.kept.append(packed)
    rows = build.rows(build.value(x))
    rest = rows.rows, build.optional(bias), ACTIVATIONS.index(str(activation))
    if not takes_bytes(packed):
        step = packed.layout, rows.part, *rest, build.new(node).part
        before = _read_by_nothing_else(node, rows.part, build) if _tiled(packed) else None
        if before is None:
            build.emit("linear", *step)
        else:
            build.steps.pop()
            build.emit("linear_pair", before, step)
        return
    source = build.bytes_of(rows, packed.input_scale).operand
    known = None if node in build.outputs else only_as_bytes(node, build.region)
    y = build.new(node)
    if known is None:
        build.emit("linear8", packed.layout, source, *rest, y.part, NO_BYTES)
    else:  # the layers that read it take 8-bit rows of one scale: nothing else is written
        build.emit("linear8", packed.layout, source, *rest, ABSENT, build.bytes_for(y, known, gaps=False).operand)


def _tiled(packed: PackedWeight) -> bool:
    """Whether its kernel can hand its outputs on to the next layer's before they leave the caches."""
    return any(kernel.name == packed.kernel and kernel.op == "spmm" for kernel in native.kernels())


def _read_by_nothing_else(node: Node, x: Part, build: Builder) -> tuple[Any, ...] | None:
    """The arguments of the step before, where it is the layer whose outputs only this node reads."""
    if not build.steps or node.args[0] in build.outputs:
        return None
    method, arguments = build.steps[-1]
    source = node.args[0]
    assert isinstance(source, Node)
    if method != "linear" or arguments[-1] is not x or len(source.users) > 1 or source.target is not node.target:
        return None
    return arguments if _tiled(find(source.args[1])) else None  # type: ignore[arg-type]


def _add_norm_fits(node: Node, facts: Facts) -> bool:
    x, residual, weight, bias, _ = node.args
    floats = is_floats(node) and is_floats(x) and (residual is None or is_floats(residual))
    return floats and weight is not None and _is_parameter(weight) and _is_parameter(bias)


@lowers(_ours.add_layer_norm.default, fits=_add_norm_fits)
def _add_layer_norm(node: Node, build: Builder) -> None:
    x, residual, weight, bias, eps = node.args
    total = build.value(x)
    other = None if residual is None else build.value(residual)
    emit_norm(build, node, total, other, (weight, bias, eps), ABSENT)


def emit_norm(
    build: Builder,
    node: Node,
    x: Value,
    residual: Value | None,
    affine: tuple[object, object, object],
    total: Part,
) -> None:
    """The value of a norm's node = layer_norm(x + residual), and total = x + residual where it is wanted."""
    weight, bias, eps = affine
    y = build.new(node)
    build.may_overwrite(y, x)
    added = (ABSENT, ZERO) if residual is None else (residual.part, residual.rows)
    features = x.sizes[-1].constant
    parameters = (build.optional(weight), build.optional(bias), eps)
    bytes_too = build.bytes_beside(node, y)
    build.emit("norm", x.part, *added, x.rows, features, *parameters, total, y.part, bytes_too)


def norm_fits(node: Node, facts: Facts) -> bool:
    """A layer norm over the last axis, with a weight."""
    x, shape, weight, bias, _ = norm_arguments(node)
    return (
        is_floats(node)
        and is_floats(x)
        and isinstance(shape, list | tuple)
        and len(shape) == 1
        and weight is not None
        and _is_parameter(weight)
        and _is_parameter(bias)
    )


def norm_arguments(node: Node) -> tuple[object, object, object, object, object]:
    """(x, shape, weight, bias, eps), those that are left out at the end as layer_norm has them."""
    left_out: list[object] = [None, None, 1e-5]
    given: list[object] = list(node.args[:5])
    x, shape, weight, bias, eps = given + left_out[max(0, len(given) - 2) :]
    return x, shape, weight, bias, eps


@lowers(_aten.layer_norm.default, fits=norm_fits)
def _layer_norm(node: Node, build: Builder) -> None:
    x, _, weight, bias, eps = norm_arguments(node)
    emit_norm(build, node, build.value(x), None, (weight, bias, eps), ABSENT)


def _attention_fits(node: Node, facts: Facts) -> bool:
    tensors, mask = node.args[:3], node.args[3]
    shapes = [shape_of(t) for t in tensors]
    q, k = shapes[:2]
    if q is None or k is None or not all(is_floats(t, contiguous=False) and _unit_last(t) for t in (*tensors, node)):
        return False
    if any(len(s[0]) != 4 for s in shapes if s is not None) or q[0][3].symbols:
        return False
    value, shape = traced(mask), shape_of(mask)
    if mask is None or value is None or shape is None:
        return mask is None
    return (
        value.dtype in (torch.bool, torch.float32) and value.dim() == 4 and (shape[1][3] == ONE or shape[0][3] == ONE)
    )


@lowers(_ours.attention.default, fits=_attention_fits)
def _attention(node: Node, build: Builder) -> None:
    q, k, v = (build.value(node.args[i]) for i in range(3))
    mask, scale = node.args[3], node.args[4]
    y = build.new(node)
    full = (*q.sizes[:3], k.sizes[2])
    masked = None if mask is None else build.value(mask)
    at = (ZERO,) * 3 if masked is None else _spread(build, masked, full)
    tensor = traced(mask)
    build.emit(
        "attention",
        (q.part, k.part, v.part, ABSENT if masked is None else masked.part, y.part),
        tensor is not None and tensor.dtype == torch.bool,
        (q.strides[:3], k.strides[:3], v.strides[:3], at, y.strides[:3]),
        full,
        q.sizes[3].constant,
        scale,
        all(_from_bytes(node.args[i]) for i in range(3)),
    )


def _from_bytes(node: object) -> bool:
    """Whether a tensor is, but for views, what a layer with 8-bit inputs computed: then attention may round too."""
    while isinstance(node, Node) and (entry := lowering_of(node)) is not None and entry.view:
        node = node.args[0]
    return isinstance(node, Node) and packed_of(node) is not None


def _spread(build: Builder, mask: Value, full: tuple[Size, ...]) -> tuple[Size, ...]:
    """The mask's strides, 0 where it repeats; sizes that only the call knows to be equal are checked there."""
    for size, whole in zip(mask.sizes, full, strict=True):
        if size not in (ONE, whole):
            build.same.append((size, whole))
    return tuple(ZERO if size == ONE else stride for size, stride in zip(mask.sizes, mask.strides, strict=True))[:3]
