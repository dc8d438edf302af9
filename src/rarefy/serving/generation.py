"""Texts that are generated: several side by side, a token of each in turn, each with a cache of its own."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rarefy.engine.decoder.sampling import Sampling
from rarefy.serving.detokenize import Words
from rarefy.serving.errors import ApiError, failed, timed_out
from rarefy.serving.inbox import Inbox
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics

log = logging.getLogger("rarefy.serving")


@dataclass(frozen=True)
class Piece:
    """What a text got: more of it, how many tokens it has by now, and at its end why it ended, or an error."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None  # "stop" or "length"
    error: ApiError | None = None

    @property
    def last(self) -> bool:
        return self.finish is not None or self.error is not None


@dataclass(eq=False)
class Text:
    """A text to generate behind the ids of a prompt. give: is called with each piece, in the engine's thread; gone: set
    by whoever does not want it any more. deadline: monotonic seconds at which it is given up."""

    ids: Sequence[int]
    most: int
    sampling: Sampling
    seed: int | None
    stops: tuple[str, ...]
    deadline: float
    give: Callable[[Piece], None]
    gone: bool = False


@dataclass(eq=False)
class _Running:
    text: Text
    words: Words
    generator: torch.Generator | None
    next: Tensor  # int64 (1, n): what the model has not seen yet
    cache: Any = None
    tokens: int = 0


@dataclass(eq=False)
class Generator:
    """Gives every running text a token a turn.

    step: (ids (1, n), cache or None) to (logits (1, vocabulary) behind the last of them, the cache); decode: ids to
    text; eos: ids that end a text.
    """

    step: Callable[[Tensor, Any], tuple[Tensor, Any]]
    decode: Callable[[list[int]], str]
    eos: frozenset[int]
    limits: Limits
    metrics: Metrics
    _running: list[_Running] = field(default_factory=list)

    def turn(self, inbox: Inbox[Text]) -> bool:
        self._running += [self._begin(text) for text in inbox.take(self.limits.active - len(self._running))]
        self._running = [one for one in self._running if self._goes_on(one)]
        self.metrics.active.set(len(self._running))
        return bool(self._running)

    def _begin(self, text: Text) -> _Running:
        generator = None if text.seed is None else torch.Generator().manual_seed(text.seed)
        return _Running(text, Words(self.decode, text.stops), generator, torch.tensor([list(text.ids)]))

    def _goes_on(self, one: _Running) -> bool:
        """Adds a token; whether the text needs another."""
        if one.text.gone:
            self.metrics.dropped.labels("gone").inc()
            return False
        if time.monotonic() > one.text.deadline:
            self.metrics.dropped.labels("late").inc()
            one.text.give(Piece(tokens=one.tokens, error=timed_out()))
            return False
        try:
            piece = self._token(one)
        except Exception:
            log.exception("the model failed at a text of %d tokens", len(one.text.ids) + one.tokens)
            piece = Piece(tokens=one.tokens, error=failed())
        if piece.text or piece.last:
            one.text.give(piece)
        return not piece.last

    def _token(self, one: _Running) -> Piece:
        self.metrics.calls.inc()
        logits, one.cache = self.step(one.next, one.cache)
        one.next = one.text.sampling.next(logits, one.generator)[:, None]
        one.tokens += 1
        self.metrics.written.inc()
        token = int(one.next)
        if token in self.eos:
            return Piece(one.words.end(), one.tokens, "stop")
        said = one.words.add(token)
        if not one.words.stopped and one.tokens >= one.text.most:
            said += one.words.end()
            return Piece(said, one.tokens, "stop" if one.words.stopped else "length")
        return Piece(said, one.tokens, "stop" if one.words.stopped else None)
