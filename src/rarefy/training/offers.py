"""What may be grown on a packed weight: scores of all its entries, some rows at a time, never all at once."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.training.run import SOURCE, Run
from rarefy.training.runtime.faces import Packing
from rarefy.training.runtime.watch import Scale
from rarefy.training.state import WeightState

_ENTRIES = 2**18  # of a dense weight at a time: 1 MiB

Score = Callable[[int, Tensor], Tensor]
"""(flat position, what is there from it on) -> scores that are not negative; a new tensor."""

Values = Callable[[Tensor], Tensor]
"""(flat positions of fresh entries, ascending) -> what they begin with."""


@runtime_checkable
class Offers(Protocol):
    """Blocks of some rows, always a multiple of so many: (rows, their gradients, their scores), both flat.

    scored: to be asked for once; plain: without scores, as often as one likes; factor: by which the gradients that were
    given have to be multiplied, known when all have gone by.
    """

    @property
    @abstractmethod
    def factor(self) -> float: ...
    @abstractmethod
    def scored(self, multiple: int = 1) -> Iterator[tuple[range, Tensor, Tensor]]: ...
    @abstractmethod
    def plain(self, multiple: int = 1) -> Iterator[tuple[range, Tensor]]: ...


def free(state: WeightState) -> bool:
    """Whether only the kept values exist, and any entry may be grown."""
    return state.packed is not None and SOURCE not in state.extra


def watched(state: WeightState) -> bool:
    """The same where this step's dense gradient comes in blocks."""
    return free(state) and bool(getattr(packing_of(state).watch, "seen", None))


def packing_of(state: WeightState) -> Packing:
    packing = state.weight.module.packing
    assert isinstance(packing, Packing)
    return packing


def row_blocks(state: WeightState, multiple: int = 1) -> Iterator[range]:
    """All rows of a weight, some at a time."""
    rows, width = state.shape
    step = max(1, _ENTRIES // width // multiple) * multiple
    for first in range(0, rows, step):
        yield range(first, min(first + step, rows))


class ByGradient:
    """Of the dense gradient that was watched: its size, or what `score` makes of it."""

    def __init__(self, state: WeightState, score: Score | None = None) -> None:
        self._state, self._score, self._scale, self._seen = state, score, Scale(), False

    @property
    def factor(self) -> float:
        """The gradient was scaled so much since its backward pass."""
        return self._scale.factor

    def plain(self, multiple: int = 1) -> Iterator[tuple[range, Tensor]]:
        topology, now = packing_of(self._state).topology, self._state.weight.parameter.grad
        for rows, flat in _joined(self._blocks(multiple), multiple):
            if now is not None and not self._seen:
                entries, here = topology.part(rows)
                self._scale.see(flat[here], now[entries])
            yield rows, flat
        self._seen = True

    def scored(self, multiple: int = 1) -> Iterator[tuple[range, Tensor, Tensor]]:
        if self._score is None:
            for rows, flat in self.plain(multiple):
                yield rows, flat, flat.abs().float()
            return
        if not self._seen:  # the score depends on how the gradient was scaled
            for _ in self.plain():
                pass
        for rows, flat in self.plain(multiple):
            yield rows, flat, self._score(rows.start * self._state.shape[1], self.factor * flat).float()

    def _blocks(self, multiple: int) -> Iterator[tuple[range, Tensor]]:
        watch = packing_of(self._state).watch
        assert watch is not None
        return watch.blocks(len(next(row_blocks(self._state, multiple))))


class ByChance:
    """Of random numbers in [0, 1) from the run's generator, those of `Run.rand`, or what `score` makes of them."""

    factor = 1.0

    def __init__(self, run: Run, state: WeightState, score: Score | None = None) -> None:
        self._run, self._state, self._score = run, state, score

    def plain(self, multiple: int = 1) -> Iterator[tuple[range, Tensor]]:
        """No gradient is known."""
        for rows in row_blocks(self._state, multiple):
            yield rows, torch.zeros(()).expand(len(rows) * self._state.shape[1])

    def scored(self, multiple: int = 1) -> Iterator[tuple[range, Tensor, Tensor]]:
        for rows, nothing in self.plain(multiple):
            drawn = torch.rand(len(nothing), generator=self._run.generator)
            first = rows.start * self._state.shape[1]
            yield rows, nothing, drawn if self._score is None else self._score(first, drawn)


def drawn_at(run: Run, state: WeightState, sd: float) -> Values:
    """Normal numbers of the standard deviation `sd` at the places that are asked for: those of one draw for all."""

    def values(places: Tensor) -> Tensor:
        found = [noise[places[low:high] - first] * sd for first, low, high, noise in _noise(run, state, places)]
        return torch.cat(found)

    return values


def _noise(run: Run, state: WeightState, places: Tensor) -> Iterator[tuple[int, int, int, Tensor]]:
    """torch draws normal numbers sixteen at a time, and the last sixteen anew where they are no multiple of that: so
    parts are multiples of sixteen, and the last has at least as many."""
    first, low = 0, 0
    step = max(16, _ENTRIES // 16 * 16)
    while first < state.size:
        last = state.size if state.size - first < step + 16 else first + step
        high = int(torch.searchsorted(places, last))
        yield first, low, high, torch.randn(last - first, generator=run.generator)
        first, low = last, high


def _joined(blocks: Iterator[tuple[range, Tensor]], multiple: int) -> Iterator[tuple[range, Tensor]]:
    """Blocks of a convolution end with its groups: they are put together until their rows are a multiple."""
    start, held = 0, []
    for rows, block in blocks:
        held.append(block.flatten())
        if rows.stop % multiple == 0:
            yield range(start, rows.stop), held[0] if len(held) == 1 else torch.cat(held)
            start, held = rows.stop, []
