"""The texts that a language model goes on with, a row each: all in one call of the decoder runtime, or one by one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rarefy.engine.decoder.together import Together


@runtime_checkable
class Rows(Protocol):
    """Texts that come and go. ids: int64."""

    def add(self, ids: Tensor) -> Tensor:
        """Reads a prompt (1, tokens), which becomes the last row; logits (1, vocabulary) behind it."""
        ...

    def step(self, ids: Tensor) -> Sequence[Tensor | Exception]:
        """Takes in a token (rows, 1) of each text; logits (1, vocabulary) behind it, or why there are none."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all texts but these, which get the rows 0, 1, ... in this order."""
        ...


class OneByOne:
    """A call of the model for each text, with a cache of its own.

    step: (ids (1, n), cache or None) to (logits (1, vocabulary) behind the last of them, the cache).
    """

    def __init__(self, step: Callable[[Tensor, Any], tuple[Tensor, Any]]) -> None:
        self._step = step
        self._caches: list[Any] = []

    def add(self, ids: Tensor) -> Tensor:
        logits, cache = self._step(ids, None)
        self._caches.append(cache)
        return logits

    def step(self, ids: Tensor) -> Sequence[Tensor | Exception]:
        return [self._one(row, token) for row, token in enumerate(ids.unbind(0))]

    def _one(self, row: int, token: Tensor) -> Tensor | Exception:
        try:
            logits, self._caches[row] = self._step(token[None], self._caches[row])
        except Exception as error:
            return error
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        self._caches = [self._caches[row] for row in rows]


class SideBySide:
    """One call of the decoder runtime for all texts."""

    def __init__(self, together: Together) -> None:
        self._together = together

    def add(self, ids: Tensor) -> Tensor:
        return self._together.add(ids)

    def step(self, ids: Tensor) -> Sequence[Tensor | Exception]:
        try:
            return self._together.step(ids).split(1)
        except Exception as error:  # of one of them; none has got its token
            return [error] * len(ids)

    def keep(self, rows: Sequence[int]) -> None:
        self._together.keep(rows)
