"""How a long job tells where it is, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

Advance = Callable[[int], None]  # how many units more are done


@runtime_checkable
class Stages(Protocol):
    """A listener. `stage` is open while a step runs; `total` is its length in units of its own."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]: ...
    def say(self, text: str) -> None: ...


class Silent:
    """A listener that shows nothing."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        yield lambda more: None

    def say(self, text: str) -> None:
        return None
