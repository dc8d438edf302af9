"""A run of fused convolutions as one module: no allocation between them, and hardly any Python.

What lies between the convolutions is in one block of memory, planned once for each input shape; blocks are kept for
the next call, one for each call that is under way, so that several threads may call at once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.engine.conv_calls import Call, Calls, Fused
from rarefy.engine.conv_calls import Step as ConvStep
from rarefy.engine.conv_memory import LINE
from rarefy.engine.demand import Step
from rarefy.ops import native
from rarefy.ops.conv8 import Scale


@dataclass(frozen=True)
class _Plan:
    """Offsets into the block by value (None: not there), the block's bytes, the calls, (value, shape) of results, and
    what the calls know the address of."""

    offsets: tuple[int | None, ...]
    nbytes: int
    calls: tuple[Call, ...]
    results: tuple[tuple[int, tuple[int, ...]], ...]
    held: tuple[Tensor, ...]


class ConvRegion(nn.Module):
    """Runs `convs` as `steps` say; values [0, inputs) are the arguments, `outputs` those that it returns.

    across: images lie across the lanes of vectors inside (the weights are packed so); scales: of values as words, by
    their number, where they are known; together: images that go through all the steps before the next ones do (0: all),
    so that what lies between the steps stays in a cache; apart: so many on each thread, by itself. names: of the steps
    in the graph that they come from, where they come from one.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        convs: Sequence[Fused],
        steps: Sequence[ConvStep],
        outputs: Sequence[int],
        across: bool,
        scales: Mapping[int, Scale],
        together: int = 0,
        apart: bool = False,
    ) -> None:
        super().__init__()
        self.convs, self.steps = nn.ModuleList(convs), tuple(steps)
        self.outputs, self.across, self.scales = tuple(outputs), across, dict(scales)
        self.together, self.apart = together, apart
        self._plans: dict[Any, _Plan] = {}
        self._blocks: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_blocks": []}  # they hold addresses

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        if (each := self._each(given)) > 0:
            return self._in_threads([x.contiguous() for x in given], each)
        parts = self._parts(given)
        if len(parts) > 1:
            return tuple(torch.cat(outs) for outs in zip(*(self._whole(part) for part in parts), strict=True))
        return self._whole(given)

    def _each(self, given: Sequence[Tensor]) -> int:
        """How many images each thread takes at a time; 0 where threads would be left without any."""
        counts, threads = {x.shape[0] for x in given}, torch.get_num_threads()
        batch = max(counts)
        each = min(self.together, -(-batch // threads))
        return each if self.apart and len(counts) == 1 and threads <= batch and 0 < each < batch else 0

    def _parts(self, given: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """The arguments by the images that go together."""
        counts, each = {x.shape[0] for x in given}, self._each(given) or (0 if self.apart else self.together)
        if each == 0 or len(counts) > 1 or max(counts) <= each:
            return [given]
        return list(zip(*(x.split(each) for x in given), strict=True))

    def _whole(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        images = [x.contiguous() for x in given]
        plan = self._plan([x.shape for x in images], torch.get_num_threads())
        results = tuple(torch.empty(shape) for _, shape in plan.results)
        block = self._block(plan.nbytes)
        try:
            _run(plan, block, [x.data_ptr() for x in images], [x.data_ptr() for x in results])
        finally:
            self._blocks.append(block)
        return results

    def _in_threads(self, images: Sequence[Tensor], each: int) -> tuple[Tensor, ...]:
        """Every thread takes images through all steps; a step itself is then computed by one thread."""
        module, batch, threads = native.module(), images[0].shape[0], torch.get_num_threads()
        assert module is not None  # the steps are native
        firsts = range(0, batch, each)
        plans = {n: self._plan([(n, *x.shape[1:]) for x in images], 1) for n in {each, batch - firsts[-1]}}
        results = tuple(torch.empty(batch, *shape[1:]) for _, shape in plans[each].results)
        places = [[(x.data_ptr(), x.stride(0) * x.element_size()) for x in tensors] for tensors in (images, results)]
        blocks = [self._block(max(plan.nbytes for plan in plans.values())) for _ in range(min(threads, len(firsts)))]
        free = list(blocks)

        def work(number: int) -> None:
            first, block = firsts[number], free.pop()
            given, made = ([at + first * step for at, step in some] for some in places)
            try:
                _run(plans[min(each, batch - first)], block, given, made)
            finally:
                free.append(block)

        try:
            module.for_each(len(firsts), threads, work)
        finally:
            self._blocks += blocks
        return results

    def profile(self, *given: Tensor) -> tuple[tuple[Tensor, ...], list[Step]]:
        """The outputs, and every native call timed; where threads take images apart, on one thread, and shared."""
        steps: list[Step] = []
        outs, parts, threads = [], self._parts(given), torch.get_num_threads()
        apart = self._each(given) > 0
        for part in parts:
            images = [x.contiguous() for x in part]
            plan = self._planned([tuple(x.shape) for x in images], 1 if apart else threads)
            outs.append(tuple(torch.empty(shape) for _, shape in plan.results))
            places = [x.data_ptr() for x in images], [x.data_ptr() for x in outs[-1]]
            _run(plan, self._block(plan.nbytes), *places, steps)
        share = 1.0 / min(threads, len(parts)) if apart else 1.0
        return tuple(torch.cat(same) for same in zip(*outs, strict=True)), [replace(s, ms=s.ms * share) for s in steps]

    def _plan(self, shapes: Sequence[Sequence[int]], threads: int) -> _Plan:
        key = (threads, *map(tuple, shapes))
        if key not in self._plans:
            self._plans[key] = self._planned(shapes, threads)
        return self._plans[key]

    def _block(self, nbytes: int) -> Tensor:
        while self._blocks:
            block = self._blocks.pop()
            if block.numel() >= nbytes + LINE:
                return block
        return torch.empty(nbytes + LINE, dtype=torch.uint8)

    def _planned(self, shapes: Sequence[Sequence[int]], threads: int) -> _Plan:
        calls = Calls(self.across, threads, self.scales)
        offsets, nbytes = calls.plan(shapes, list(self.convs), self.steps, self.outputs)  # type: ignore[arg-type]
        results = tuple((value, calls.values[value].shape) for value in calls.results)
        return _Plan(tuple(offsets), nbytes, tuple(calls.calls), results, tuple(calls.held))


def _run(
    plan: _Plan, block: Tensor, given: Sequence[int], results: Sequence[int], timed: list[Step] | None = None
) -> None:
    """Computes the results, at their addresses, from what lies at those given; each call's time is added to `timed`,
    where that is wanted."""
    base = -(-block.data_ptr() // LINE) * LINE
    at = [0 if offset is None else base + offset for offset in plan.offsets]
    at[: len(given)] = given
    for (value, _), result in zip(plan.results, results, strict=True):
        at[value] = result
    for call in plan.calls:
        arguments = list(call.arguments)
        for position, value in call.places:
            arguments[position] = at[value]
        begin = time.perf_counter() if timed is not None else 0.0
        call.run(*arguments)
        if timed is not None:
            timed.append(Step(str(len(timed)), call.kind, (time.perf_counter() - begin) * 1e3, call.demand))
