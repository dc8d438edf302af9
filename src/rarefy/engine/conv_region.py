"""A run of fused convolutions as one module: no allocation between them, and hardly any Python.

What lies between the convolutions is in one block of memory, planned once for each input shape; blocks are kept for
the next call, one for each call that is under way, so that several threads may call at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.engine.fused_conv import FusedConv2d
from rarefy.ops import native
from rarefy.ops.conv_across import lanes
from rarefy.ops.conv_reference import ACTIVATIONS

_LINE = 64  # bytes: what the kernels' vectors are aligned to


@dataclass(frozen=True)
class Step:
    """One convolution: the numbers of the values that it reads and of the one that it makes; residual -1 is none."""

    source: int
    residual: int
    result: int


@dataclass(frozen=True)
class _Plan:
    """Offsets into the block by value (None: not there), the block's bytes, and the arguments of each native call."""

    offsets: tuple[int | None, ...]
    nbytes: int
    shapes: tuple[tuple[int, ...], ...]
    calls: tuple[tuple[Any, ...], ...]


def _placed(sizes: Sequence[int | None], last_use: Sequence[int], made: Sequence[int]) -> tuple[list[int | None], int]:
    """Where each value lies, first fit in the order they are made: values that live at the same time do not overlap."""
    offsets: list[int | None] = [None] * len(sizes)
    for value in sorted((v for v, size in enumerate(sizes) if size is not None), key=lambda v: made[v]):
        others = [v for v, at in enumerate(offsets) if at is not None and last_use[v] >= made[value]]
        at = 0
        for other in sorted(others, key=lambda v: offsets[v] or 0):
            start, size = offsets[other] or 0, sizes[other] or 0
            if at + (sizes[value] or 0) <= start:
                break
            at = max(at, start + size)
        offsets[value] = at
    ends = [at + (size or 0) for at, size in zip(offsets, sizes, strict=True) if at is not None]
    return offsets, max(ends, default=0)


class ConvRegion(nn.Module):
    """Runs `convs` as `steps` say; values [0, inputs) are the arguments, `outputs` those that it returns.

    across: images lie across the lanes of vectors inside (the weights are packed so).
    """

    def __init__(
        self, convs: Sequence[FusedConv2d], steps: Sequence[Step], inputs: int, outputs: Sequence[int], across: bool
    ) -> None:
        super().__init__()
        self.convs, self.steps = nn.ModuleList(convs), tuple(steps)
        self.inputs, self.outputs, self.across = inputs, tuple(outputs), across
        self._plans: dict[Any, _Plan] = {}
        self._blocks: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_blocks": []}  # they hold addresses

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        images = [x.contiguous() for x in given]
        key = tuple(x.shape for x in images)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._planned(key)
        block = self._block(plan.nbytes)
        try:
            return self._run(plan, block, images)
        finally:
            self._blocks.append(block)

    def _block(self, nbytes: int) -> Tensor:
        while self._blocks:
            block = self._blocks.pop()
            if block.numel() >= nbytes + _LINE:
                return block
        return torch.empty(nbytes + _LINE, dtype=torch.uint8)

    def _run(self, plan: _Plan, block: Tensor, images: list[Tensor]) -> tuple[Tensor, ...]:
        module, threads, batch = native.module(), torch.get_num_threads(), images[0].shape[0]
        assert module is not None
        base = -(-block.data_ptr() // _LINE) * _LINE
        at = [0 if offset is None else base + offset for offset in plan.offsets]
        results = {v: torch.empty(batch, *plan.shapes[v][1:4]) for v in self.outputs}
        for value, image in enumerate(images):
            if self.across:
                module.turn_across(image.data_ptr(), batch, image[0].numel(), at[value], False, threads)
            else:
                at[value] = image.data_ptr()
        if not self.across:
            for value, result in results.items():
                at[value] = result.data_ptr()
        for step, (run, image_size, place, bias, activation) in zip(self.steps, plan.calls, strict=True):
            residual = at[step.residual] if step.residual >= 0 else 0
            run(at[step.source], image_size, place, bias, residual, activation, at[step.result], threads)
        if self.across:
            for value, result in results.items():
                module.turn_across(at[value], batch, result[0].numel(), result.data_ptr(), True, threads)
        return tuple(results[value] for value in self.outputs)

    def _planned(self, given: Sequence[Sequence[int]]) -> _Plan:
        width = lanes() if self.across else 1
        shapes: list[tuple[int, ...]] = [(-(-s[0] // width), *s[1:]) for s in given]
        shapes += [()] * len(self.steps)
        calls = []
        for step, conv in zip(self.steps, self.convs, strict=True):
            assert isinstance(conv, FusedConv2d)
            packed, source = conv.packed, shapes[step.source]
            shapes[step.result] = packed.out_shape(source)
            run = packed.layout.convolve_across if self.across else packed.layout.convolve
            place = (*packed.window.padding, *shapes[step.result][2:])
            bias = 0 if conv.bias is None else conv.bias.data_ptr()
            calls.append((run, (source[0], *source[2:]), place, bias, ACTIVATIONS.index(conv.activation)))
        sizes = [self._bytes(value, shape, width) for value, shape in enumerate(shapes)]
        offsets, nbytes = _placed(sizes, self._last_use(), self._made())
        return _Plan(tuple(offsets), nbytes, tuple(shapes), tuple(calls))

    def _bytes(self, value: int, shape: Sequence[int], width: int) -> int | None:
        if not self.across and (value < self.inputs or value in self.outputs):
            return None  # the argument's or the result's own memory
        size = 4 * width
        for n in shape:
            size *= n
        return -(-size // _LINE) * _LINE

    def _made(self) -> list[int]:
        return [-1] * self.inputs + list(range(len(self.steps)))

    def _last_use(self) -> list[int]:
        last = [-1] * self.inputs + list(range(len(self.steps)))
        for number, step in enumerate(self.steps):
            for value in (step.source, step.residual):
                if value >= 0:
                    last[value] = number
        for value in self.outputs:
            last[value] = len(self.steps)
        return last
