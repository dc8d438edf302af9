"""What a program computes with: buffers, and tensors as parts of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from rarefy.engine.program.sizes import ONE, ZERO, Size, is_row_major, product, sizes_of

BYTES = {torch.float32: 4, torch.int64: 8, torch.bool: 1}


@dataclass(eq=False)
class Buffer:
    """Memory of a program: a constant's, an argument's of the call, or (neither) the arena's."""

    bytes: Size
    constant: Tensor | None = None
    argument: int | None = None
    number: int = field(default=-1, init=False)  # of the native program


@dataclass(frozen=True)
class Part:
    """Where an operand begins, in its elements."""

    buffer: Buffer
    offset: Size = ZERO


ABSENT = Part(Buffer(ONE))  # the operand that is not there


@dataclass(frozen=True)
class Value:
    """A tensor of a graph in a program's memory: strides in elements, as in torch."""

    part: Part
    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]

    @property
    def contiguous(self) -> bool:
        return is_row_major(self.sizes, self.strides)

    @property
    def rows(self) -> Size:
        return product(self.sizes[:-1])

    @property
    def count(self) -> Size:
        return product(self.sizes)


def traced(node: object) -> Tensor | None:
    """The tensor that the tracer saw for a node, if the node is one and gives one."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def shape_of(node: object) -> tuple[tuple[Size, ...], tuple[Size, ...]] | None:
    """(sizes, strides) of a node's tensor; None where they are no products or the tensor is not on the CPU."""
    value = traced(node)
    if value is None or value.device.type != "cpu" or value.layout != torch.strided or value.dtype not in BYTES:
        return None
    sizes, strides = sizes_of(value.shape), sizes_of(value.stride())
    return None if sizes is None or strides is None else (sizes, strides)


def is_floats(node: object, contiguous: bool = True) -> bool:
    """A float32 tensor of known shape on the CPU; by default one without gaps, in order."""
    value, shape = traced(node), shape_of(node)
    if value is None or shape is None or value.dtype != torch.float32:
        return False
    return not contiguous or is_row_major(*shape)
