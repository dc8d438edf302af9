"""The most bytes that are alive at a time: all that torch allocates, and what the native core prepares of masks."""

import time
import weakref
from typing import Any

from torch.profiler import ProfilerActivity, profile

from rarefy.ops import TrainIndex
from rarefy.training.runtime import topology


class Live:
    """Counts while it is entered, of what is made meanwhile: begin before the model is there.

    torch's profiler tells every allocation and release with its time; the native core's are noted beside them.
    """

    def __init__(self) -> None:
        self._changes: list[tuple[int, int]] = []  # (when in ns, bytes)
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> "Live":
        changes = self._changes

        class Noted(TrainIndex):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                changes.append((time.time_ns(), self.nbytes))
                weakref.finalize(self, lambda size: changes.append((time.time_ns(), -size)), self.nbytes)

        topology.TrainIndex = Noted  # type: ignore[misc]
        self._profile.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._profile.stop()
        topology.TrainIndex = TrainIndex  # type: ignore[misc]
        events = self._profile.profiler.kineto_results.events()
        self._changes += [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]

    def peak(self, since: int) -> int:
        """The most bytes at a time from a moment on (`time.time_ns()`)."""
        now, most = 0, 0
        for when, size in sorted(self._changes):
            now += size
            if when >= since:
                most = max(most, now)
        return most
