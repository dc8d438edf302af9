"""The one thread that owns the model: it loads it, and every call of it happens there."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from rarefy.serving.errors import ApiError, stopping
from rarefy.serving.inbox import ClosedError, FullError, Inbox
from rarefy.serving.limits import Limits

log = logging.getLogger("rarefy.serving")


@runtime_checkable
class Worker(Protocol):
    """What is done with the works of an inbox."""

    def turn(self, inbox: Inbox[Any]) -> bool:
        """Waits for works, takes some and advances them; whether some are not finished yet. A work's failure is told to
        whoever sent it, and never raised."""
        ...


class Pace:
    """Works taken a second, of late: what is older than ten seconds of work hardly counts."""

    def __init__(self) -> None:
        self._works, self._seconds = 0.0, 0.0

    def note(self, works: int, seconds: float) -> None:
        kept = math.exp(-seconds / 10)
        self._works, self._seconds = self._works * kept + works, self._seconds * kept + seconds

    def seconds_for(self, works: int) -> int:
        """Whole seconds, 1 to 60, until so many works are taken."""
        return max(1, min(60, math.ceil(works * self._seconds / self._works))) if self._works else 1


class Engine:
    """Makes a worker in a thread of its own and gives it turns until it is stopped."""

    def __init__(self, make: Callable[[], Worker], limits: Limits) -> None:
        self.inbox: Inbox[Any] = Inbox(limits.queue)
        self._make = make
        self._ready: Future[Worker] = Future()
        self._thread = threading.Thread(target=self._run, name="rarefy-engine", daemon=True)
        self._pace = Pace()

    def start(self) -> Any:
        """The worker, once it is made. Raises what making it raised."""
        self._thread.start()
        return self._ready.result()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, works: Sequence[Any]) -> None:
        """Queues works, all or none. Raises ApiError: 429 where they do not fit, 503 while the server stops."""
        try:
            self.inbox.put(works)
        except FullError:
            wait = self._pace.seconds_for(len(self.inbox))
            message = f"The server has too much to do. Please try again in {wait} seconds."
            raise ApiError(429, message, code="queue_full", retry=wait) from None
        except ClosedError:
            raise stopping() from None

    def stop(self, seconds: float | None = None) -> None:
        """Finishes what is queued, takes no more, and waits for that."""
        self.inbox.close()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            worker = self._make()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(worker)
        try:
            self._turns(worker)
        except BaseException:
            log.exception("the engine's thread ended")
        finally:
            self.inbox.close()

    def _turns(self, worker: Worker) -> None:
        busy = False
        while busy or len(self.inbox) or not self.inbox.closed:
            if not busy:
                self.inbox.wait()
            before, began = self.inbox.taken, time.monotonic()
            busy = worker.turn(self.inbox)
            self._pace.note(self.inbox.taken - before, time.monotonic() - began)
