"""The two sides of a model of transformers with selectors: what it drafts, and what it says without them."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError
from rarefy.selectors.attach import attached, paused


@runtime_checkable
class Drafting(Protocol):
    """A sparse and a dense model of the same weights over one cache; compiled decoders have one as `drafting`."""

    def begin(self, ids: Tensor, room: int) -> tuple[Tensor, Any]:
        """(logits (1, vocabulary) behind a prompt (1, tokens), its cache with room for more tokens), read dense."""

    def draft(self, last: Tensor, cache: Any, count: int, end: int | None = None) -> Tensor:
        """Greedy tokens (1, count) of the sparse model behind `last` (1, 1), fewer where the token `end` comes; the
        cache takes in all but the newest."""

    def check(self, ids: Tensor, cache: Any) -> Tensor:
        """Logits (1, tokens, vocabulary) of the dense model behind `ids` (1, tokens), which the cache takes in."""


class EagerDrafts:
    """`Drafting` of a model whose selectors are hooks. Raises ModelError if it has none, or a cache that is not cut."""

    def __init__(self, model: nn.Module) -> None:
        if next(attached(model), None) is None:
            raise ModelError("sirius: the model has no selectors, so there is nothing to correct; attach some first")
        self.model = model

    def begin(self, ids: Tensor, room: int) -> tuple[Tensor, Any]:
        with paused(self.model):
            out = self.model(input_ids=ids, use_cache=True, **_whole_cache(self.model))
        cache = getattr(out, "past_key_values", None)
        _require_cut(type(self.model).__name__, cache)
        return out.logits[:, -1], cache

    def draft(self, last: Tensor, cache: Any, count: int, end: int | None = None) -> Tensor:
        made: list[Tensor] = []
        while len(made) < count and (not made or end is None or int(last) != end):
            out = self.model(input_ids=last, past_key_values=cache, use_cache=True)
            last = out.logits[:, -1:].argmax(-1)
            made.append(last)
        return torch.cat(made, 1)

    def check(self, ids: Tensor, cache: Any) -> Tensor:
        with paused(self.model):
            logits: Tensor = self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        return logits


def _whole_cache(model: nn.Module) -> dict[str, Any]:
    """A cache of all tokens for a model whose attention sees a window: its own forgets what a cut brings back."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "sliding_window", None):
        return {}
    from transformers import DynamicCache

    return {"past_key_values": DynamicCache()}


def _require_cut(name: str, cache: Any) -> None:
    """Refuses what tokens cannot be taken back from."""
    if cache is None:
        raise ModelError(
            f"sirius: {name} gives no past_key_values; give a decoder that generates text (a causal model)"
        )
    windows = [layer for layer in getattr(cache, "layers", ()) if _forgets(layer)]
    if windows or not hasattr(cache, "crop"):
        kind = type(windows[0] if windows else cache).__name__
        raise ModelError(
            f"sirius: {name} keeps keys and values in a {kind}, from which tokens cannot be taken back; give a model "
            "that keeps those of all tokens, or a later release of transformers (5, say), which may have a cache for it"
        )


def _forgets(layer: Any) -> bool:
    return getattr(layer, "is_sliding", False) is True or hasattr(layer, "record_past")
