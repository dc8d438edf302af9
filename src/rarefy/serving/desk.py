"""Between the routes and the model: requests become works, works become answers; the loop computes nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from rarefy.engine.decoder.sampling import Sampling
from rarefy.serving import replies
from rarefy.serving.batching import Batcher, Vectors, rows_of
from rarefy.serving.engine import Engine, Worker
from rarefy.serving.errors import ApiError, timed_out
from rarefy.serving.generation import Generator, Piece, Text
from rarefy.serving.limits import Limits
from rarefy.serving.metrics import Metrics
from rarefy.serving.model import Served
from rarefy.serving.tokens import Tokens
from rarefy.serving.wire import ChatAsked, CompletionAsked, EmbeddingAsked, Generating

T = TypeVar("T")
_GRACE = 5.0  # seconds beyond a deadline for the engine to say itself that it passed


class Desk:
    """One model at work. make: loads it, in the engine's thread; name: under which clients ask for it.

    One more thread turns text into ids, and vectors into bytes.
    """

    def __init__(self, make: Callable[[], Served], name: str, limits: Limits, metrics: Metrics) -> None:
        self.name, self.limits, self.metrics = name, limits, metrics
        self.created = int(time.time())
        self._make = make
        self._engine = Engine(self._worker, limits)
        self._words = ThreadPoolExecutor(1, "rarefy-words")
        metrics.waiting.set_function(lambda: len(self._engine.inbox))

    def start(self) -> Served:
        """Loads the model. Raises what that raises."""
        self._engine.start()
        return self.served

    def _worker(self) -> Worker:
        self.served = served = self._make()
        self._tokens = Tokens(served, self.limits)
        if not served.writes:
            return Batcher(served.embed, self.limits, self.metrics)
        return Generator(served.rows(), self._tokens.decode, served.eos(), self.limits, self.metrics)

    @property
    def well(self) -> bool:
        return self._engine.alive and not self._engine.inbox.closed

    def stop(self) -> None:
        """Finishes what was taken in."""
        self._engine.stop(self.limits.stop_s)
        self._words.shutdown(wait=False, cancel_futures=True)

    async def _aside(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._words, partial(call, *args))

    def require(self, model: str, writes: bool) -> None:
        """Raises ApiError for a model that is not served, or does not do this."""
        if model != self.name:
            message = f"The model {model!r} does not exist here; this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        if writes != self.served.writes:
            does = "generates text; use /v1/completions" if self.served.writes else "embeds text; use /v1/embeddings"
            raise ApiError(400, f"The model {model!r} {does}", param="model", code="model_cannot")

    async def embeddings(self, asked: EmbeddingAsked) -> bytes:
        """The answer to a request for embeddings."""
        self.require(asked.model, writes=False)
        texts = await self._aside(self._tokens.texts, asked.input, "input")
        answer = Vectors(len(texts), time.monotonic() + self.limits.request_s)
        self._engine.submit(rows_of(texts, answer))
        try:
            vectors = await asyncio.wait_for(asyncio.wrap_future(answer.future), self.limits.request_s + _GRACE)
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            raise timed_out() from None
        width, read = vectors.shape[1], sum(map(len, texts))
        if asked.dimensions not in (None, width):
            raise ApiError(400, f"dimensions: this model's vectors have {width}", param="dimensions")
        self.metrics.read.inc(read)
        return await self._aside(replies.embeddings, vectors, self.name, read, asked.encoding_format == "base64")

    async def prompts(self, asked: Generating) -> list[list[int]]:
        """Ids of the texts to go on with: one of a chat, one or several of a completion."""
        self.require(asked.model, writes=True)
        if isinstance(asked, ChatAsked):
            return [await self._aside(self._tokens.chat, asked.messages)]
        assert isinstance(asked, CompletionAsked)
        return await self._aside(self._tokens.texts, asked.prompt, "prompt")

    def write(self, prompts: Sequence[list[int]], asked: Generating) -> "Writing":
        """Queues the texts of a request. Raises ApiError where they do not fit."""
        most = [self._tokens.new_tokens(ids, asked.most_tokens()) for ids in prompts]
        writing = Writing(len(prompts))
        deadline = time.monotonic() + self.limits.request_s
        texts = [
            Text(ids, n, sampling_of(asked), asked.seed, asked.stops(), deadline, writing.taker(i))
            for i, (ids, n) in enumerate(zip(prompts, most, strict=True))
        ]
        writing.texts = texts
        self._engine.submit(texts)
        self.metrics.read.inc(sum(map(len, prompts)))
        return writing


def sampling_of(asked: Generating) -> Sampling:
    """Temperature 0 takes the likeliest token; the interface's own default is 1."""
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return Sampling(temperature > 0, temperature or 1.0, None, 1.0 if asked.top_p is None else asked.top_p)


class Writing:
    """The texts of one request while they are generated; what they got arrives in the event loop."""

    def __init__(self, count: int) -> None:
        self.texts: Sequence[Text] = ()
        self.tokens = [0] * count
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

    def taker(self, index: int) -> Callable[[Piece], None]:
        def take(piece: Piece) -> None:
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))
            except RuntimeError:  # the loop is closed: the server was made to stop at once
                self.leave()

        return take

    def leave(self) -> None:
        """Nobody waits for it any more: the engine drops it at its next turn."""
        for text in self.texts:
            text.gone = True

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(index of the text, what it got), until all have ended. Raises ApiError where one failed."""
        left = len(self.tokens)
        try:
            while left:
                index, piece = await self._pieces.get()
                self.tokens[index] = piece.tokens
                if piece.error is not None:
                    raise piece.error
                left -= piece.last
                yield index, piece
        finally:
            self.leave()

    async def whole(self) -> list[tuple[str, str]]:
        """(text, why it ended) of each."""
        said, ends = [""] * len(self.tokens), [""] * len(self.tokens)
        async for index, piece in self.pieces():
            said[index] += piece.text
            ends[index] = piece.finish or ends[index]
        return list(zip(said, ends, strict=True))
