"""Embeddings: texts of whoever asks at about the same time share a call of the model."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.serving.errors import ApiError, failed, timed_out
from rarefy.serving.inbox import Inbox
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics

log = logging.getLogger("rarefy.serving")


class Vectors:
    """The answer to one request: its texts' vectors, complete when the last of them is."""

    def __init__(self, texts: int, deadline: float) -> None:
        self.future: Future[Tensor] = Future()  # (texts, width)
        self.deadline = deadline
        self._found: list[Tensor | None] = [None] * texts
        self._left = texts

    def gone(self) -> bool:
        """Whether nobody waits for it any more, be it that the client left or that another text failed."""
        return self.future.done()

    def give(self, index: int, vector: Tensor) -> None:
        self._found[index], self._left = vector, self._left - 1
        if self._left == 0:
            with suppress(InvalidStateError):  # the client left meanwhile
                self.future.set_result(torch.stack([v for v in self._found if v is not None]))

    def fail(self, error: ApiError) -> None:
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class Row:
    """One text, as ids, of a request."""

    ids: Sequence[int]
    index: int
    answer: Vectors


def rows_of(texts: Sequence[Sequence[int]], answer: Vectors) -> list[Row]:
    """A row a text; texts of like length follow each other, which saves padding."""
    return [Row(texts[i], i, answer) for i in sorted(range(len(texts)), key=lambda i: len(texts[i]))]


class Batcher:
    """Embeds rows: at most `limits.batch` a call, none of which has waited longer than `limits.wait_ms` for others.

    embed: vectors (texts, width) of so many texts as ids.
    """

    def __init__(self, embed: Callable[[Sequence[Sequence[int]]], Tensor], limits: Limits, metrics: Metrics) -> None:
        self._embed, self._limits, self._metrics = embed, limits, metrics

    def turn(self, inbox: Inbox[Row]) -> bool:
        inbox.gather(self._limits.batch, self._limits.wait_ms / 1e3)
        rows = [row for row in inbox.take(self._limits.batch) if self._wanted(row)]
        if rows and not self._give(rows) and len(rows) > 1:
            for row in rows:  # so that only those fail at which the model does
                self._give([row])
        return False

    def _wanted(self, row: Row) -> bool:
        if row.answer.gone():
            self._metrics.dropped.labels("gone").inc()
            return False
        if time.monotonic() > row.answer.deadline:
            self._metrics.dropped.labels("late").inc()
            row.answer.fail(timed_out())
            return False
        return True

    def _give(self, rows: Sequence[Row]) -> bool:
        """Embeds rows at once. Where the model fails at several, nothing is given: each is tried alone."""
        self._metrics.calls.inc()
        self._metrics.batch.observe(len(rows))
        try:
            vectors = self._embed([row.ids for row in rows])
        except Exception:
            log.exception("the model failed at %d texts", len(rows))
            if len(rows) == 1:
                rows[0].answer.fail(failed())
            return False
        for row, vector in zip(rows, vectors, strict=True):
            row.answer.give(row.index, vector)
        return True
