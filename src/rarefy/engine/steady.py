"""Whether threads have a core each at the moment: virtual CPUs of a shared machine are at times two halves of one."""

import functools
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from rarefy.engine.calls import threads
from rarefy.ops import available, candidates, pack

_T = TypeVar("_T")

_TOKENS = 256  # of one thread
_SLOW = 1.25  # times as long as one thread alone; 1.4 to 2 where two share a core
_PATIENCE = 3.0  # seconds that a process waits for better moments, in all
_TURNS = 3
_MOST_THREADS = 4  # with more, one alone is faster by its turbo clock, and seldom do all share


class Steady:
    """Asked between timings. alone, together: seconds of a product by one thread, and of as many by all at once.

    It says yes for good once `patience` seconds have passed after a no. If it never meant a yes until then, the machine
    is like that, and its times are those to choose by; else those of one thread's part are (`timed`). The fastest time
    alone is remembered: threads that still spin after their last work slow what they share a core with.
    """

    def __init__(self, alone: Callable[[], float], together: Callable[[], float], patience: float = _PATIENCE) -> None:
        self._alone, self._together, self.patience = alone, together, patience
        self._since: float | None = None
        self._fastest = float("inf")
        self._had_cores = False

    @property
    def comes_and_goes(self) -> bool:
        """Whether patience is over and the threads had a core each before."""
        return self.patience <= 0.0 and self._had_cores

    def __call__(self) -> bool:
        if self._since is not None:
            self.patience -= time.perf_counter() - self._since
            self._since = None
        if self.patience <= 0.0:
            return True
        if self.now():
            return True
        self._since = time.perf_counter()
        return False

    def now(self) -> bool:
        """Whether all threads at once take about as long as one alone, whatever was waited before."""
        self._fastest = min(self._fastest, self._alone())
        calm = self._together() <= _SLOW * self._fastest
        self._had_cores |= calm
        return calm


def steady() -> Steady | None:
    """Of this process and number of threads; None for one thread, for many, and where there is nothing to ask with."""
    count = torch.get_num_threads()
    return _steady(count) if available() and 1 < count <= _MOST_THREADS else None


def timed(measure: Callable[[int], _T], count: int, least: int = 1) -> _T:
    """`measure(count)`, of so many pieces of work (tokens, images); or of one thread's part of them with one thread,
    where that tells more than all threads do together: they are losing their cores now and then, for longer than there
    was patience. That is done where every thread has at least `least` pieces."""
    asked, all_threads = steady(), torch.get_num_threads()
    if asked is None or count < least * all_threads:
        return measure(count)
    if not asked.comes_and_goes:
        times = measure(count)
        if not asked.comes_and_goes:
            return times
    with threads(1):
        return measure(-(-count // all_threads))


@functools.cache
def _steady(count: int) -> Steady | None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(192, 384, generator=generator)
    weight *= torch.rand(192, 384, generator=generator) < 0.2
    x = torch.randn(_TOKENS * count, 384, generator=generator)
    names = candidates(weight, _TOKENS, "fp32", "fp32")
    if not names:
        return None
    packed, y = pack(weight, names[0]), torch.empty(_TOKENS * count, 192)

    def seconds(busy: int) -> float:
        """Of the fastest of some products by `busy` threads."""
        found = []
        for _ in range(_TURNS):
            begin = time.perf_counter()
            packed.layout.multiply(x.data_ptr(), _TOKENS * busy, 0, 0, y.data_ptr(), busy)
            found.append(time.perf_counter() - begin)
        return min(found)

    return Steady(lambda: seconds(1), lambda: seconds(count))
