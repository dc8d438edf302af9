"""8-bit rows: what the layers that compute on 8-bit inputs read, made once for all of them where it is made."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from rarefy.core.quantized import InputScale
from rarefy.engine.program.sizes import Size
from rarefy.engine.program.values import ABSENT, Part, Value
from rarefy.ops import native
from rarefy.ops.packed import PackedWeight, find

Known = InputScale | None  # of all rows; None: each row finds its own
_LINE = 64  # rows begin on a cache line, so that kernels may read whole vectors of them
_packed_linear = torch.ops.rarefy.packed_linear.default


@dataclass(frozen=True)
class Bytes:
    """x[row] ~ scale * (values[row] - zero); `stride` bytes from row to row. inverse: of the scale times each entry's
    factor, where there are factors."""

    values: Part
    scale: Part
    zero: Part
    stride: int
    known: Known
    inverse: Part = ABSENT

    @property
    def operand(self) -> tuple[Any, ...]:
        """As the native program takes it."""
        known = self.known or InputScale(0.0, 0)
        return self.values, self.scale, self.zero, self.stride, known.scale, known.zero, self.inverse


NO_BYTES = (ABSENT, ABSENT, ABSENT, 0, 0.0, 0, ABSENT)


def takes_bytes(packed: PackedWeight) -> bool:
    """Whether its kernel computes on 8-bit inputs."""
    return any(k.name == packed.kernel and k.activations == "int8" for k in native.kernels())


def packed_of(node: Node) -> PackedWeight | None:
    """The weight of a packed linear node that computes on 8-bit inputs."""
    if node.target is not _packed_linear:
        return None
    packed = find(node.args[1])  # type: ignore[arg-type]
    return packed if takes_bytes(packed) else None


def known_for(node: Node, region: set[Node]) -> tuple[bool, Known]:
    """(whether an 8-bit layer of the region reads this node as it is, with which scale): the first such reader's."""
    for user in node.users:
        packed = packed_of(user) if user in region and user.args[0] is node else None
        if packed is not None:
            return True, packed.input_scale
    return False, None


def only_as_bytes(node: Node, region: set[Node]) -> Known:
    """The known scale with which all readers of a node take it as 8-bit rows; None where there is one that does not."""
    readers = [packed_of(u) if u in region and u.args[0] is node else None for u in node.users]
    scales = {None if packed is None else packed.input_scale for packed in readers}
    return scales.pop() if len(scales) == 1 else None


def stride_of(features: int) -> int:
    """Bytes from row to row."""
    return (features + _LINE - 1) // _LINE * _LINE


def constants(known: InputScale) -> tuple[Tensor, Tensor]:
    """A known scale and zero point as tensors of one entry."""
    return torch.tensor([known[0]]), torch.tensor([known[1]], dtype=torch.int32)


def size_in_bytes(value: Value, stride: int) -> Size:
    return value.rows * Size(stride)
