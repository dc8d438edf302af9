"""Tokens of a model with selectors, and what the model without them says of many at once, over one cache."""

import torch
from torch import Tensor

from rarefy.core.errors import ModelError, ShapeError
from rarefy.engine.calls import inference
from rarefy.engine.decoder.cache import DecoderCache
from rarefy.engine.decoder.generate import positions_of
from rarefy.engine.decoder.runner import Runner
from rarefy.engine.decoder.unselected import unselected


class Drafting:
    """The two sides of a compiled decoder whose model has selectors, for one text each cache. Both read the same packed
    weights: of layers that skip for a token, the dense side takes the layout that they have for more.

    Raises ModelError for a model without selectors.
    """

    def __init__(self, runner: Runner, thread_count: int | None = None) -> None:
        if not runner.structure.selects:
            raise ModelError("drafting: the model has no selectors, so what it drafts is what a check would say")
        self._sparse, self._threads = runner, thread_count
        self._dense = Runner(*unselected(runner.structure, runner.plan))

    def begin(self, ids: Tensor, room: int) -> tuple[Tensor, DecoderCache]:
        """(logits (1, vocabulary) behind a prompt (1, tokens), its cache), read by the model without its selectors.

        room: for how many more tokens the cache is made; it grows when it must.
        """
        cache = self._sparse.cache(1, ids.shape[-1] + room)
        return self._read("begin", ids, cache, last_only=True)[:, -1], cache

    def draft(self, last: Tensor, cache: DecoderCache, count: int, end: int | None = None) -> Tensor:
        """Greedy tokens (1, count) behind the token `last` (1, 1), fewer where the token `end` comes.

        The cache takes in `last` and all of them but the newest.
        """
        newest = self._one_text("draft", last, cache, count).clone()
        position = torch.full((1, 1), cache.length)
        made: list[int] = []
        with inference(self._threads):
            logits, advance = self._sparse.stepper(newest, position, cache)
            while len(made) < count and (not made or made[-1] != end):
                advance()
                made.append(int(logits[0, 0].argmax()))
                newest.fill_(made[-1])
                position += 1
        return torch.tensor([made])

    def check(self, ids: Tensor, cache: DecoderCache) -> Tensor:
        """Logits (1, tokens, vocabulary) of the model without its selectors behind each of `ids` (1, tokens).

        The cache takes in that model's keys and values of them.
        """
        return self._read("check", ids, cache, last_only=False)

    def _read(self, where: str, ids: Tensor, cache: DecoderCache, last_only: bool) -> Tensor:
        ids = self._one_text(where, ids, cache, ids.shape[-1])
        positions = positions_of(None, 1, ids.shape[1], cache.length)
        with inference(self._threads):
            return self._dense.run(ids, positions, cache, last_only)

    def _one_text(self, where: str, ids: Tensor, cache: DecoderCache, new: int) -> Tensor:
        ids = self._sparse.require_ids(where, ids)
        if ids.shape[0] != 1 or ids.shape[1] < 1 or cache.batch != 1:
            raise ShapeError(f"{where}: input_ids has shape {tuple(ids.shape)}; give tokens of one text, (1, tokens)")
        self._sparse.require_length(where, cache.length + new)
        cache.reserve(cache.length + new)
        return ids
