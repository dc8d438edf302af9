"""Timing of alternatives side by side: rounds interleaved, so that drift of a shared machine hits all alike."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Rounds:
    """Milliseconds of every round, by name; all lists are of one length and round i of each was taken together."""

    times: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return median(self.times[name])

    def best(self, name: str) -> float:
        return min(self.times[name])

    def ratio(self, name: str, against: str) -> float:
        """How many times faster `name` is: the median of the rounds' ratios."""
        pairs = zip(self.times[against], self.times[name], strict=True)
        return median(a / b for a, b in pairs)


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int = 7,
    warmup: int = 2,
    seconds: float | None = None,
    before: Callable[[], Any] | None = None,
    steady: Callable[[], bool] | None = None,
) -> Rounds:
    """Times each call once a round, in turn; stops early after `seconds` once three rounds are in.

    before: done ahead of each call, not timed. steady: asked between rounds; a round counts where it said yes at both
    ends, so it has to say yes in the end.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    kept: list[dict[str, float]] = []
    done, collecting = 0, gc.isenabled()
    gc.disable()
    started = time.perf_counter()
    try:
        calm = steady is None or steady()
        while len(kept) < rounds:
            if seconds is not None and len(kept) >= 3 and time.perf_counter() - started > seconds:
                break
            order: Sequence[str] = list(calls) if done % 2 == 0 else list(calls)[::-1]
            taken: dict[str, float] = {}
            for name in order:
                if before is not None:
                    before()
                begin = time.perf_counter()
                calls[name]()
                taken[name] = (time.perf_counter() - begin) * 1e3
            done, was_calm, calm = done + 1, calm, steady is None or steady()
            if was_calm and calm:
                kept.append(taken)
    finally:
        if collecting:
            gc.enable()
    return Rounds({name: tuple(taken[name] for taken in kept) for name in calls})
