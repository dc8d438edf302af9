"""Views: no step at all, only other sizes and strides for memory that is there; and reshapes that must copy."""

from collections.abc import Mapping

import torch
from torch.fx import Node

from rarefy.engine.program.builder import Builder
from rarefy.engine.program.facts import Fact
from rarefy.engine.program.lowering import lowers
from rarefy.engine.program.sizes import ONE, is_row_major, size_of
from rarefy.engine.program.values import Part, Value, shape_of, traced

_aten = torch.ops.aten
_VIEWS = (
    _aten.view.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.alias.default,
    _aten.flatten.using_ints,
)
Facts = Mapping[Node, Fact]


def _view_fits(node: Node, facts: Facts) -> bool:
    """Known strides, and a beginning that is a product of sizes."""
    tensor = traced(node)
    known = shape_of(node) is not None and shape_of(node.args[0]) is not None
    return known and tensor is not None and size_of(tensor.storage_offset()) is not None


@lowers(*_VIEWS, fits=_view_fits, view=True)
def _view(node: Node, build: Builder) -> None:
    base, shape, tensor = build.value(node.args[0]), shape_of(node), traced(node)
    assert shape is not None and tensor is not None
    offset = size_of(tensor.storage_offset())
    assert offset is not None
    build.put(node, Value(Part(base.part.buffer, offset), *shape))


def _reshape_fits(node: Node, facts: Facts) -> bool:
    before, after = shape_of(node.args[0]), shape_of(node)
    tensor = traced(node)
    if before is None or after is None or tensor is None or tensor.dtype != torch.float32:
        return False
    copied = len(before[0]) <= 4 and before[1][-1] == ONE
    return is_row_major(*before) or before[0] == after[0] or (copied and is_row_major(*after))


@lowers(_aten.reshape.default, fits=_reshape_fits, view=True)
def _reshape(node: Node, build: Builder) -> None:
    base, shape = build.value(node.args[0]), shape_of(node)
    assert shape is not None
    if base.sizes == shape[0]:
        build.put(node, base)
    else:
        rows = build.rows(base)
        build.put(node, Value(rows.part, *shape))


def _contiguous_fits(node: Node, facts: Facts) -> bool:
    tensor, before, after = traced(node), shape_of(node.args[0]), shape_of(node)
    floats = tensor is not None and tensor.dtype == torch.float32
    return floats and before is not None and after is not None and len(before[0]) <= 4 and before[1][-1] == ONE


@lowers(_aten.contiguous.default, _aten.clone.default, fits=_contiguous_fits, view=True)
def _contiguous(node: Node, build: Builder) -> None:
    build.put(node, build.rows(build.value(node.args[0])))
