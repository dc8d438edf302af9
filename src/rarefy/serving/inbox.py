"""What waits for the engine's thread: a bounded queue between the event loop and it."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

W = TypeVar("W")


class FullError(Exception):
    """There is no room for so much more."""


class ClosedError(Exception):
    """Nothing more is taken in."""


class Inbox(Generic[W]):
    """Works in the order in which they came, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[float, W]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.taken = 0  # works handed out so far

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, works: Sequence[W]) -> None:
        """All of them or none. Raises FullError or ClosedError; never waits for room."""
        with self._changed:
            if self._closed:
                raise ClosedError
            if len(self._waiting) + len(works) > self._most:
                raise FullError
            now = time.monotonic()
            self._waiting.extend((now, work) for work in works)
            self._changed.notify_all()

    def close(self) -> None:
        """No more is taken in; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Until something waits, or never will."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)

    def gather(self, count: int, seconds: float) -> None:
        """Until `count` works wait, or the oldest has waited for so long, or no more will come."""
        with self._changed:
            while self._waiting and len(self._waiting) < count and not self._closed:
                left = self._waiting[0][0] + seconds - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def take(self, most: int) -> list[W]:
        """The oldest, at most so many; waits for nothing."""
        with self._changed:
            found = [self._waiting.popleft()[1] for _ in range(min(most, len(self._waiting)))]
            self.taken += len(found)
            return found
