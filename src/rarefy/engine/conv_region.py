"""A run of fused convolutions as one module: no allocation between them, and hardly any Python.

What lies between the convolutions is in one block of memory, planned once for each input shape; blocks are kept for
the next call, one for each call that is under way, so that several threads may call at once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.engine.conv_calls import Call, Calls, Fused
from rarefy.engine.conv_calls import Step as ConvStep
from rarefy.engine.conv_memory import LINE
from rarefy.engine.demand import Step
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
    so that what lies between the steps stays in a cache.
    """

    def __init__(
        self,
        convs: Sequence[Fused],
        steps: Sequence[ConvStep],
        outputs: Sequence[int],
        across: bool,
        scales: Mapping[int, Scale],
        together: int = 0,
    ) -> None:
        super().__init__()
        self.convs, self.steps = nn.ModuleList(convs), tuple(steps)
        self.outputs, self.across, self.scales = tuple(outputs), across, dict(scales)
        self.together = together
        self._plans: dict[Any, _Plan] = {}
        self._blocks: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_blocks": []}  # they hold addresses

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        parts = self._parts(given)
        if len(parts) > 1:
            return tuple(torch.cat(outs) for outs in zip(*(self._whole(part) for part in parts), strict=True))
        return self._whole(given)

    def _parts(self, given: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """The arguments by the images that go together."""
        counts = {x.shape[0] for x in given}
        if self.together == 0 or len(counts) > 1 or max(counts) <= self.together:
            return [given]
        return list(zip(*(x.split(self.together) for x in given), strict=True))

    def _whole(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        images = [x.contiguous() for x in given]
        threads = torch.get_num_threads()
        key = (threads, *(x.shape for x in images))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._planned(images, threads)
        block = self._block(plan.nbytes)
        try:
            return _run(plan, block, images)
        finally:
            self._blocks.append(block)

    def profile(self, *given: Tensor) -> tuple[tuple[Tensor, ...], list[Step]]:
        """The outputs, and every native call timed."""
        steps: list[Step] = []
        outs = []
        for part in self._parts(given):
            images = [x.contiguous() for x in part]
            plan = self._planned(images, torch.get_num_threads())
            outs.append(_run(plan, self._block(plan.nbytes), images, steps))
        return tuple(torch.cat(same) for same in zip(*outs, strict=True)), steps

    def _block(self, nbytes: int) -> Tensor:
        while self._blocks:
            block = self._blocks.pop()
            if block.numel() >= nbytes + LINE:
                return block
        return torch.empty(nbytes + LINE, dtype=torch.uint8)

    def _planned(self, images: Sequence[Tensor], threads: int) -> _Plan:
        calls = Calls(self.across, threads, self.scales)
        offsets, nbytes = calls.plan([tuple(x.shape) for x in images], list(self.convs), self.steps, self.outputs)  # type: ignore[arg-type]
        results = tuple((value, calls.values[value].shape) for value in calls.results)
        return _Plan(tuple(offsets), nbytes, tuple(calls.calls), results, tuple(calls.held))


def _run(plan: _Plan, block: Tensor, images: Sequence[Tensor], timed: list[Step] | None = None) -> tuple[Tensor, ...]:
    """The results; every call's time is added to `timed`, where that is wanted."""
    base = -(-block.data_ptr() // LINE) * LINE
    at = [0 if offset is None else base + offset for offset in plan.offsets]
    at[: len(images)] = [image.data_ptr() for image in images]
    results = tuple(torch.empty(shape) for _, shape in plan.results)
    for (value, _), result in zip(plan.results, results, strict=True):
        at[value] = result.data_ptr()
    for call in plan.calls:
        arguments = list(call.arguments)
        for position, value in call.places:
            arguments[position] = at[value]
        begin = time.perf_counter() if timed is not None else 0.0
        call.run(*arguments)
        if timed is not None:
            timed.append(Step(str(len(timed)), call.kind, (time.perf_counter() - begin) * 1e3, call.demand))
    return results
