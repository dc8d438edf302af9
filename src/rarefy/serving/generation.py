"""Texts that are generated: several side by side, a token of each a turn."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.engine.decoder.sampling import Sampling
from rarefy.serving.detokenize import Words
from rarefy.serving.errors import ApiError, failed, timed_out
from rarefy.serving.inbox import Inbox
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics
from rarefy.serving.rows import Rows

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
    newest: int = 0  # what the model has not seen yet
    tokens: int = 0


@dataclass(eq=False)
class Generator:
    """Gives every running text a token a turn.

    rows: what computes them; decode: ids to text; eos: ids that end a text.
    """

    rows: Rows
    decode: Callable[[list[int]], str]
    eos: frozenset[int]
    limits: Limits
    metrics: Metrics
    _running: list[_Running] = field(default_factory=list)

    def turn(self, inbox: Inbox[Text]) -> bool:
        self._keep([not self._given_up(one) for one in self._running])
        if self._running:
            self.metrics.calls.inc()
            self.metrics.batch.observe(len(self._running))
            found = self.rows.step(torch.tensor([[one.newest] for one in self._running]))
            self._keep([self._goes_on(one, logits) for one, logits in zip(self._running, found, strict=True)])
        for text in inbox.take(self.limits.active - len(self._running)):
            self._begin(text)
        self.metrics.active.set(len(self._running))
        return bool(self._running)

    def _keep(self, wanted: Sequence[bool]) -> None:
        if not all(wanted):
            kept = [row for row, keep in enumerate(wanted) if keep]
            self.rows.keep(kept)
            self._running = [self._running[row] for row in kept]

    def _begin(self, text: Text) -> None:
        """Reads the prompt and gives the first token."""
        generator = None if text.seed is None else torch.Generator().manual_seed(text.seed)
        one = _Running(text, Words(self.decode, text.stops), generator)
        if self._given_up(one):
            return
        self.metrics.calls.inc()
        try:
            logits: Tensor | Exception = self.rows.add(torch.tensor([list(text.ids)]))
        except Exception as error:
            self._goes_on(one, error)
            return
        self._running.append(one)
        self._keep([True] * (len(self._running) - 1) + [self._goes_on(one, logits)])

    def _given_up(self, one: _Running) -> bool:
        """Whether nobody waits for the text any more, or it took too long."""
        if one.text.gone:
            self.metrics.dropped.labels("gone").inc()
            return True
        if time.monotonic() > one.text.deadline:
            self.metrics.dropped.labels("late").inc()
            one.text.give(Piece(tokens=one.tokens, error=timed_out()))
            return True
        return False

    def _goes_on(self, one: _Running, logits: Tensor | Exception) -> bool:
        """Adds a token; whether the text needs another."""
        try:
            if isinstance(logits, Exception):
                raise logits
            piece = self._token(one, logits)
        except Exception:
            log.exception("the model failed at a text of %d tokens", len(one.text.ids) + one.tokens)
            piece = Piece(tokens=one.tokens, error=failed())
        if piece.text or piece.last:
            one.text.give(piece)
        return not piece.last

    def _token(self, one: _Running, logits: Tensor) -> Piece:
        one.newest = token = int(one.text.sampling.next(logits, one.generator))
        one.tokens += 1
        self.metrics.written.inc()
        if token in self.eos:
            return Piece(one.words.end(), one.tokens, "stop")
        said = one.words.add(token)
        if not one.words.stopped and one.tokens >= one.text.most:
            said += one.words.end()
            return Piece(said, one.tokens, "stop" if one.words.stopped else "length")
        return Piece(said, one.tokens, "stop" if one.words.stopped else None)
