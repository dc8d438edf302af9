"""The native calls of a run of convolutions for inputs of given shapes, in order, and the memory between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rarefy.engine.conv_memory import Value, place
from rarefy.engine.demand import Demand
from rarefy.engine.fused_conv import FusedConv2d, FusedConvPool, demand_of
from rarefy.ops import native
from rarefy.ops.conv_across import lanes
from rarefy.ops.conv_reference import ACTIVATIONS


@dataclass(frozen=True)
class Step:
    """One convolution: the numbers of the values that it reads and of the one that it makes; residual -1 is none."""

    source: int
    residual: int
    result: int


@dataclass(frozen=True)
class Call:
    """run(*arguments), with the addresses of values put in at their positions. kind, demand: for profiles."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]  # (position, value)
    kind: str
    demand: Demand


@dataclass
class Calls:
    """Builds the calls. Values [0, inputs) are the arguments; the others are numbered as they are made."""

    across: bool
    threads: int
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    _twins: dict[tuple[int, int], int] = field(default_factory=dict)  # (value, lanes) -> the same in that layout

    def plan(
        self,
        given: Sequence[Sequence[int]],
        convs: Sequence[FusedConv2d | FusedConvPool],
        steps: Sequence[Step],
        outputs: Sequence[int],
    ) -> tuple[list[int | None], int]:
        """Fills calls, values and results; returns the offsets of the values and the bytes of their block."""
        self.values = [Value(tuple(shape), 1, False, -1, -1) for shape in given]
        self._batch = given[0][0]
        number = {i: i for i in range(len(given))}
        for step, conv in zip(steps, convs, strict=True):
            residual = -1 if step.residual < 0 else number[step.residual]
            make = self._pooled if isinstance(conv, FusedConvPool) else self._conv
            number[step.result] = make(conv, number[step.source], residual)  # type: ignore[arg-type]
        for output in outputs:
            value = self._in_layout(number[output], 1)
            self.values[value].own, self.values[value].last = False, len(self.calls)
            self.results.append(value)
        return place(self.values)

    def _new(self, shape: Sequence[int], width: int) -> int:
        self.values.append(Value(tuple(shape), width, True, len(self.calls), len(self.calls)))
        return len(self.values) - 1

    def _add(
        self,
        run: Callable[..., None],
        arguments: Sequence[Any],
        places: Sequence[tuple[int, int]],
        kind: str,
        demand: Demand,
    ) -> None:
        for _, value in places:
            self.values[value].last = max(self.values[value].last, len(self.calls))
        self.calls.append(Call(run, tuple(arguments), tuple(places), kind, demand))

    def _in_layout(self, value: int, width: int) -> int:
        """The value itself, or its twin with `width` images in a vector."""
        known = self.values[value]
        if known.lanes == width:
            return value
        if (value, width) not in self._twins:
            blocks = -(-self._batch // width)
            twin = self._twins[value, width] = self._new((blocks, *known.shape[1:]), width)
            size = known.shape[1] * known.shape[2] * known.shape[3]
            module = native.module()
            assert module is not None
            arguments = (0, self._batch, size, 0, width == 1, self.threads)
            moved = Demand(nbytes=8.0 * self._batch * size)
            self._add(module.turn_across, arguments, ((0, value), (3, twin)), "turn", moved)
        return self._twins[value, width]

    def _conv(self, conv: FusedConv2d, source: int, residual: int) -> int:
        width, packed = lanes() if self.across else 1, conv.packed
        source = self._in_layout(source, width)
        residual = residual if residual < 0 else self._in_layout(residual, width)
        image = self.values[source].shape
        shape = packed.out_shape(image)
        result = self._new(shape, width)
        bias = 0 if conv.bias is None else conv.bias.data_ptr()
        places = [(0, source), (6, result), *([] if residual < 0 else [(4, residual)])]
        where = (*packed.window.padding, *shape[2:])
        arguments = (0, (image[0], *image[2:]), where, bias, 0, ACTIVATIONS.index(conv.activation), 0, self.threads)
        run = packed.layout.convolve_across if self.across else packed.layout.convolve
        need = demand_of(conv, (self._batch, *image[1:]), residual >= 0)
        self._add(run, arguments, places, "conv", need)
        return result

    def _pooled(self, both: FusedConvPool, source: int, residual: int) -> int:
        conv, pool, packed = both.conv, both.pool, both.conv.packed
        source = self._in_layout(source, 1)
        image = self.values[source].shape
        between = packed.out_shape(image)
        shape = pool.out_shape(between)
        result = self._new(shape, 1)
        bias = 0 if conv.bias is None else conv.bias.data_ptr()
        where, window = (
            (*packed.window.padding, *between[2:]),
            (*pool.kernel, *pool.stride, *pool.padding, *pool.dilation),
        )
        activation = ACTIVATIONS.index(conv.activation)
        arguments = (0, (image[0], *image[2:]), where, bias, activation, window, shape[2:], 0, self.threads)
        need = demand_of(both, image, False)
        self._add(packed.layout.convolve_pooled, arguments, ((0, source), (7, result)), "conv and pool", need)
        return result
