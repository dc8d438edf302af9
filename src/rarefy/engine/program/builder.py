"""From the nodes of a region to a native program: steps are collected first, then memory is shared out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from rarefy.engine.program.facts import Fact
from rarefy.engine.program.rows8 import NO_BYTES, Bytes, Known, constants, known_for, size_in_bytes, stride_of
from rarefy.engine.program.sizes import ONE, Size, row_major
from rarefy.engine.program.slots import slots_of
from rarefy.engine.program.values import ABSENT, BYTES, Buffer, Part, Value, shape_of, traced

Step = tuple[str, tuple[Any, ...]]  # a method of the native program, and its arguments with Parts and Sizes in them


class Builder:
    """Holds what one region needs while its nodes are lowered one after the other.

    inputs: nodes outside whose tensors come with the call; same: pairs of sizes that a call must have equal.
    """

    def __init__(self, graph: GraphModule, facts: Mapping[Node, Fact], region: set[Node], outputs: list[Node]) -> None:
        self.graph, self.facts, self.region = graph, facts, region
        self.inputs: list[Node] = []
        self.outputs = outputs
        self.steps: list[Step] = []
        self.same: list[tuple[Size, Size]] = []
        self.kept: list[Any] = []
        self.done: set[Node] = set()
        self._values: dict[Node, Value] = {}
        self._bytes: dict[tuple[Part, Known], Bytes] = {}
        self._over: dict[Buffer, Buffer] = {}

    def emit(self, method: str, *arguments: Any) -> None:
        self.steps.append((method, arguments))

    def value(self, node: object) -> Value:
        """The tensor of a node: computed before, a parameter, or an input of the region."""
        assert isinstance(node, Node)
        if node not in self._values:
            self._values[node] = self._constant(node) if node.op == "get_attr" else self._input(node)
        return self._values[node]

    def optional(self, node: object) -> Part:
        return ABSENT if node is None else self.value(node).part

    def _shape(self, node: Node) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
        shape = shape_of(node)
        assert shape is not None, f"{node}: fitting nodes have known shapes"
        return shape

    def _constant(self, node: Node) -> Value:
        tensor: Any = self.graph
        for name in str(node.target).split("."):
            tensor = getattr(tensor, name)
        return self.tensor(tensor)

    def tensor(self, tensor: Tensor) -> Value:
        """A tensor that stays as it is for good."""
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        sizes = tuple(map(Size, tensor.shape))
        return Value(Part(Buffer(Size(tensor.nbytes), constant=tensor)), sizes, row_major(sizes))

    def _input(self, node: Node) -> Value:
        """Inputs are made contiguous at the call, whatever the tracer saw."""
        sizes, _ = self._shape(node)
        self.inputs.append(node)
        return Value(Part(Buffer(ONE, argument=len(self.inputs) - 1)), sizes, row_major(sizes))

    def new(self, node: Node) -> Value:
        """Memory for what a node computes, with the strides that the tracer saw."""
        sizes, strides = self._shape(node)
        tensor = traced(node)
        assert tensor is not None
        if node in self.outputs:
            buffer = Buffer(ONE, argument=-1 - self.outputs.index(node))  # numbered behind the inputs later
        else:
            buffer = self._buffer(sizes, tensor.dtype)
        return self.put(node, Value(Part(buffer), sizes, strides))

    def put(self, node: Node, value: Value) -> Value:
        self._values[node] = value
        return value

    def _buffer(self, sizes: tuple[Size, ...], dtype: torch.dtype) -> Buffer:
        total = Size(BYTES[dtype])
        for size in sizes:
            total = total * size
        return Buffer(total)

    def scratch(self, count: Size, dtype: torch.dtype = torch.float32) -> Part:
        """Memory of the arena for `count` entries."""
        return Part(self._buffer((count,), dtype))

    def may_overwrite(self, new: Value, old: Value) -> None:
        """The step that makes a value may write it where one lies of which it reads nothing afterwards."""
        self._over[new.part.buffer] = old.part.buffer

    def rows(self, value: Value) -> Value:
        """The value without gaps: itself, or copied."""
        if value.contiguous:
            return value
        sizes = (*(ONE,) * (4 - len(value.sizes)), *value.sizes)
        strides = (*(Size(0),) * (4 - len(value.strides)), *value.strides)
        out = self.scratch(value.count)
        self.emit("copy", value.part, sizes, strides[:3], out)
        return Value(out, value.sizes, row_major(value.sizes))

    def bytes_for(self, value: Value, known: Known, gaps: bool = True) -> Bytes:
        """Memory for the 8-bit rows of a value without gaps, as `bytes_of` finds it from now on; no step yet.

        gaps: rows begin on cache lines; a kernel that writes 8-bit rows leaves none.
        """
        features = value.sizes[-1].constant
        stride = stride_of(features) if gaps else features
        values = Part(Buffer(size_in_bytes(value, stride)))
        if known is None:
            scale, zero = Part(Buffer(value.rows * Size(4))), Part(Buffer(value.rows * Size(4)))
        else:
            scale, zero = (self.tensor(constant).part for constant in constants(known))
        inverse = self.tensor(known.inverse).part if known is not None and known.factors else ABSENT
        made = Bytes(values, scale, zero, stride, known, inverse)
        self._bytes[value.part, known] = made
        return made

    def bytes_of(self, value: Value, known: Known) -> Bytes:
        """The 8-bit rows of a value: those made before, or made by a step of their own."""
        if (value.part, known) not in self._bytes:
            made = self.bytes_for(value, known)
            self.emit("quantise", value.part, value.rows, value.sizes[-1].constant, made.operand)
        return self._bytes[value.part, known]

    def bytes_beside(self, node: Node, value: Value) -> tuple[Any, ...]:
        """The 8-bit rows that the step which makes a node's value makes along with it, for the layers that read it."""
        wanted, known = known_for(node, self.region)
        return self.bytes_for(value, known).operand if wanted else NO_BYTES

    def native(self, module: Any, symbols: tuple[str, ...], hints: Mapping[str, int]) -> Any:
        """The native program, its buffers numbered and the arena's shared by what is not alive together."""
        program = module.Program(len(symbols), len(self.inputs) + len(self.outputs))
        slots = slots_of([_buffers(arguments) for _, arguments in self.steps], hints, self._over)
        numbers = {name: i for i, name in enumerate(symbols)}

        def number(buffer: Buffer) -> int:
            if buffer.number < 0 and buffer is not ABSENT.buffer:
                if buffer.constant is not None:
                    buffer.number = program.constant(buffer.constant.data_ptr())
                elif buffer.argument is not None:
                    at = buffer.argument
                    buffer.number = program.given(at if at >= 0 else len(self.inputs) - 1 - at)
                else:
                    buffer.number = program.arena(plain(buffer.bytes), slots[buffer])
            return buffer.number

        def plain(argument: Any) -> Any:
            if isinstance(argument, Size):
                return argument.constant, [numbers[name] for name in argument.symbols]
            if isinstance(argument, Part):
                return number(argument.buffer), plain(argument.offset)
            return type(argument)(map(plain, argument)) if isinstance(argument, tuple | list) else argument

        for method, arguments in self.steps:
            getattr(program, method)(*map(plain, arguments))
        return program


def _buffers(arguments: Any) -> list[Buffer]:
    """The arena's buffers that a step names."""
    if isinstance(arguments, Part):
        buffer = arguments.buffer
        ours = buffer.constant is None and buffer.argument is None and buffer is not ABSENT.buffer
        return [buffer] if ours else []
    if isinstance(arguments, tuple | list):
        return [buffer for argument in arguments for buffer in _buffers(argument)]
    return []


def names_in(arguments: Any) -> set[str]:
    """The symbols that sizes in these arguments use."""
    if isinstance(arguments, Size):
        return set(arguments.symbols)
    if isinstance(arguments, Part):
        return names_in(arguments.offset) | names_in(arguments.buffer.bytes)
    if isinstance(arguments, tuple | list):
        return set().union(*(names_in(argument) for argument in arguments))
    return set()
