"""Texts of different lengths written at the same time: one call of the model gives each its next token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.engine.calls import inference
from rarefy.engine.decoder.cache import DecoderCache, side_by_side
from rarefy.engine.decoder.runner import Runner

_ROOM = 64  # tokens for which a cache has room when texts come or go; it grows when it must


class Together:
    """Some texts, each a row; they come and go at any time. Used by one thread at a time.

    All end at the same slot of one cache, a shorter one behind padding that nothing sees. What a text gets differs from
    what it would get alone by the rounding of kernels for several tokens.
    """

    def __init__(self, runner: Runner, thread_count: int | None = None) -> None:
        self._runner, self._threads = runner, thread_count
        self._cache: DecoderCache | None = None
        self._tokens: list[int] = []  # of each text

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, ids: Tensor) -> Tensor:
        """Reads a prompt (1, tokens), which becomes the last row; logits (1, vocabulary) behind it."""
        ids = self._runner.require_ids("add", ids)
        if ids.shape[0] != 1 or ids.shape[1] == 0:
            raise ShapeError(f"add: input_ids has shape {tuple(ids.shape)}; give one text (1, tokens)")
        tokens = ids.shape[1]
        self._runner.require_length("add", tokens)
        fresh = self._runner.cache(1, tokens)
        logits = self._run(ids, torch.arange(tokens)[None], fresh)
        self._gather([*self._texts(), (fresh, 0, tokens)])
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Takes in a token (rows, 1) of each text; logits (rows, vocabulary) behind them.

        Raises EngineError where a text is as long as the model takes; nothing has changed then.
        """
        ids = self._runner.require_ids("step", ids)
        cache = self._cache
        if cache is None or ids.shape != (len(self), 1):
            raise ShapeError(f"step: input_ids has shape {tuple(ids.shape)}; there are {len(self)} texts, a token each")
        self._runner.require_length("step", cache.length + 1)
        cache.reserve(cache.length + 1)
        logits = self._run(ids, torch.tensor(self._tokens)[:, None], cache)
        self._tokens = [tokens + 1 for tokens in self._tokens]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all texts but these, which get the rows 0, 1, ... in this order."""
        if list(rows) != list(range(len(self))):
            texts = self._texts()
            self._gather([texts[row] for row in rows])

    def _run(self, ids: Tensor, positions: Tensor, cache: DecoderCache) -> Tensor:
        with inference(self._threads):
            return self._runner.run(ids, positions, cache, last_only=True)[:, -1]

    def _texts(self) -> list[tuple[DecoderCache, int, int]]:
        assert self._cache is not None or not self._tokens
        return [(self._cache, row, tokens) for row, tokens in enumerate(self._tokens) if self._cache is not None]

    def _gather(self, texts: Sequence[tuple[DecoderCache, int, int]]) -> None:
        self._cache = side_by_side(texts, _ROOM) if texts else None
        self._tokens = [tokens for _, _, tokens in texts]
