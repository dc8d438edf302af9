"""The native calls of a run of convolutions for inputs of given shapes, in order, and the memory between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rarefy.engine.conv_memory import FLOATS, Form, Value, place
from rarefy.engine.demand import Demand
from rarefy.engine.fused_conv import FusedConv2d, FusedConv8, FusedConvPool, MaxPool2d, demand_of
from rarefy.ops import native
from rarefy.ops.conv8 import Scale
from rarefy.ops.conv_across import lanes
from rarefy.ops.conv_reference import ACTIVATIONS

Fused = FusedConv2d | FusedConv8 | FusedConvPool | MaxPool2d


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


def in_words(convs: Sequence[Fused], steps: Sequence[Step], scales: Mapping[int, Scale]) -> frozenset[int]:
    """The values of known scale that are best made as words: those that an 8-bit convolution reads, at once or pooled,
    or adds to a result of words."""
    wanted: set[int] = set()
    for step, conv in reversed(list(zip(steps, convs, strict=True))):
        if isinstance(conv, FusedConv8):
            wanted.add(step.source)
        if step.result in wanted and step.result in scales and isinstance(conv, FusedConv8 | MaxPool2d):
            wanted |= {step.source} if isinstance(conv, MaxPool2d) else {step.residual}
    return frozenset(wanted & set(scales))


@dataclass
class Calls:
    """Builds the calls. Values [0, inputs) are the arguments; the others are numbered as they are made.

    across: images lie across the lanes of vectors inside; scales: of values as words, where they are known.
    """

    across: bool
    threads: int
    scales: Mapping[int, Scale] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)  # what calls know the address of
    _twins: dict[tuple[int, Form], int] = field(default_factory=dict)  # (value, form) -> the same in that form
    _own: dict[int, tuple[int, int]] = field(default_factory=dict)  # words -> the values of their scales and zeros

    def plan(
        self, given: Sequence[Sequence[int]], convs: Sequence[Fused], steps: Sequence[Step], outputs: Sequence[int]
    ) -> tuple[list[int | None], int]:
        """Fills calls, values and results; returns the offsets of the values and the bytes of their block."""
        self.values = [Value(tuple(shape), FLOATS, False, -1, -1) for shape in given]
        self._batch = given[0][0]
        words, number = in_words(convs, steps, self.scales), {i: i for i in range(len(given))}
        for step, conv in zip(steps, convs, strict=True):
            source, residual = number[step.source], -1 if step.residual < 0 else number[step.residual]
            if isinstance(conv, FusedConv8):
                known = self.scales.get(step.source), self.scales.get(step.residual)
                to = self.scales[step.result] if step.result in words and (residual < 0 or known[1]) else None
                result = self._conv8(conv, source, residual, known, to)
            elif isinstance(conv, FusedConv2d):
                result = self._conv(conv, source, residual)
            else:
                result = self._pooled(conv, source) if isinstance(conv, FusedConvPool) else self._pool(conv, source)
            number[step.result] = result
        for output in outputs:
            value = self._in_form(number[output], FLOATS)
            self.values[value].own, self.values[value].last = False, len(self.calls)
            self.results.append(value)
        return place(self.values)

    def _new(self, shape: Sequence[int], form: Form) -> int:
        self.values.append(Value(tuple(shape), form, True, len(self.calls), len(self.calls)))
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

    def _in_form(self, value: int, form: Form) -> int:
        """The value itself, or its twin in another form; words are turned to words by way of floats."""
        known = self.values[value].form
        if known == form:
            return value
        if (value, form) not in self._twins:
            if FLOATS not in (known, form):
                value = self._in_form(value, FLOATS)
            self._twins[value, form] = self._turned(value, form)
        return self._twins[value, form]

    def _turned(self, value: int, form: Form) -> int:
        """Floats to another form, or that form to floats."""
        module, known = native.module(), self.values[value]
        assert module is not None
        _, channels, height, width = known.shape
        pixels, words = height * width, known.form if known.form.words else form
        blocks = -(-self._batch // form.lanes)
        twin = self._new((blocks, channels, height, width), form)
        both = 2 * channels * self._batch * pixels * (5 if words.words else 8) / 2
        if not words.words:
            arguments: tuple[Any, ...] = (0, self._batch, channels * pixels, 0, form.lanes == 1, self.threads)
            self._add(module.turn_across, arguments, ((0, value), (3, twin)), "turn", Demand(nbytes=both))
        elif form.words:
            scale, zero, places = self._scales(twin)
            find = form.scale is None
            arguments = (0, self._batch, channels, pixels, find, scale, zero, 0, self.threads)
            moved = ((0, value), (7, twin), *((p + 4, v) for p, v in places))
            self._add(module.to_words, arguments, moved, "to bytes", Demand(nbytes=both))
        else:
            assert words.scale is not None  # a result of words has a known one
            arguments = (0, self._batch, channels, pixels, *words.scale, 0, self.threads)
            self._add(module.from_words, arguments, ((0, value), (6, twin)), "from bytes", Demand(nbytes=both))
        return twin

    def _scales(self, words: int) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """Addresses of a value's scale and zero, and what to put in for positions 1 and 2 if they are in the block."""
        known = self.values[words].form.scale
        if known is not None:
            self.held += [torch.tensor([known[0]]), torch.tensor([known[1]], dtype=torch.int32)]
            return self.held[-2].data_ptr(), self.held[-1].data_ptr(), ()
        if words not in self._own:
            one = (self._batch, 1, 1, 1)
            self._own[words] = self._new(one, FLOATS), self._new(one, FLOATS)
        scale, zero = self._own[words]
        return 0, 0, ((1, scale), (2, zero))

    def _conv8(
        self,
        conv: FusedConv8,
        source: int,
        residual: int,
        known: tuple[Scale | None, Scale | None],
        to: Scale | None,
    ) -> int:
        image, packed = self.values[source].shape, conv.packed
        if not self.values[source].form.words:
            source = self._in_form(source, Form(words=True, scale=known[0]))
        beside = (1.0, 0)
        if residual >= 0:
            there = self.values[residual].form
            form = FLOATS if to is None else there if there.words else Form(words=True, scale=known[1])
            residual, beside = self._in_form(residual, form), form.scale or beside
        scale, zero, places = self._scales(source)
        shape = packed.out_shape(image)
        result = self._new(shape, FLOATS if to is None else Form(words=True, scale=to))
        arguments = (
            0, scale, zero, 1 if places else 0,
            (image[0], *image[2:]), (*packed.window.padding, *shape[2:]),
            0 if conv.bias is None else conv.bias.data_ptr(), 0, *beside,
            ACTIVATIONS.index(conv.activation), 0, to is not None, *(to or (1.0, 0)),
            self.threads,
        )  # fmt: skip
        moved = [(0, source), (11, result), *places, *([] if residual < 0 else [(7, residual)])]
        self._add(packed.layout.convolve, arguments, moved, "conv", demand_of(conv, image, residual >= 0))
        return result

    def _conv(self, conv: FusedConv2d, source: int, residual: int) -> int:
        form, packed = Form(lanes()) if self.across else FLOATS, conv.packed
        source = self._in_form(source, form)
        residual = residual if residual < 0 else self._in_form(residual, form)
        image = self.values[source].shape
        shape = packed.out_shape(image)
        result = self._new(shape, form)
        bias = 0 if conv.bias is None else conv.bias.data_ptr()
        places = [(0, source), (6, result), *([] if residual < 0 else [(4, residual)])]
        where = (*packed.window.padding, *shape[2:])
        arguments = (0, (image[0], *image[2:]), where, bias, 0, ACTIVATIONS.index(conv.activation), 0, self.threads)
        run = packed.layout.convolve_across if self.across else packed.layout.convolve
        need = demand_of(conv, (self._batch, *image[1:]), residual >= 0)
        self._add(run, arguments, places, "conv", need)
        return result

    def _pooled(self, both: FusedConvPool, source: int) -> int:
        conv, pool, packed = both.conv, both.pool, both.conv.packed
        form = Form(lanes()) if packed.across else FLOATS
        source = self._in_form(source, form)
        image = self.values[source].shape
        between = packed.out_shape(image)
        shape = pool.out_shape(between)
        result = self._new(shape, form)
        bias = 0 if conv.bias is None else conv.bias.data_ptr()
        where = (*packed.window.padding, *between[2:])
        activation = ACTIVATIONS.index(conv.activation)
        arguments = (0, (image[0], *image[2:]), where, bias, activation, pool.window, shape[2:], 0, self.threads)
        need = demand_of(both, (self._batch, *image[1:]), False)
        self._add(packed.layout.convolve_pooled, arguments, ((0, source), (7, result)), "conv and pool", need)
        return result

    def _pool(self, pooling: MaxPool2d, source: int) -> int:
        """Words stay words, of the same scale."""
        module, pool = native.module(), pooling.pool
        assert module is not None
        source = source if self.values[source].form.words else self._in_form(source, FLOATS)
        image, form = self.values[source].shape, self.values[source].form
        shape = pool.out_shape(image)
        result = self._new(shape, form)
        stored, run = image, module.max_pool
        if form.words:
            stored, run = (image[0], -(-image[1] // 4)), module.max_pool_words
        arguments = (0, stored[0] * stored[1], (*image[2:], *shape[2:]), pool.window, 0, self.threads)
        self._add(run, arguments, ((0, source), (4, result)), "pool", demand_of(pooling, image, False))
        return result
