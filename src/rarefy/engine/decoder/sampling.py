"""From logits to the next token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import EngineError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Order as in transformers: temperature, then top_k, then top_p.

    top_k: only so many of the largest (0 or None: all); top_p: only the largest that together reach this probability.
    do_sample False: the largest logit, and nothing else counts.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0

    def __post_init__(self) -> None:
        if not self.do_sample:
            return
        if not self.temperature > 0:
            raise EngineError(f"generate: temperature={self.temperature} is not positive; use do_sample=False instead")
        if self.top_k is not None and not isinstance(self.top_k, int):
            raise EngineError(f"generate: top_k={self.top_k!r} is no whole number; give a count of tokens")
        if self.top_k is not None and self.top_k < 0:
            raise EngineError(f"generate: top_k={self.top_k} is negative; 0 keeps all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise EngineError(f"generate: top_p={self.top_p} is outside (0, 1]")

    def scores(self, logits: Tensor) -> Tensor:
        """logits (batch, vocabulary) with -infinity for the tokens that cannot be drawn."""
        scores = logits if self.temperature == 1.0 else logits / self.temperature
        if self.top_k:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if self.top_p is not None and self.top_p < 1.0:
            ordered, order = scores.sort(descending=False)
            dropped = ordered.softmax(-1).cumsum(-1) <= 1 - self.top_p
            dropped[:, -1] = False
            scores = scores.masked_fill(dropped.scatter(1, order, dropped), float("-inf"))
        return scores

    def next(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Token ids (batch)."""
        if not self.do_sample:
            return logits.argmax(-1)
        return torch.multinomial(self.scores(logits).softmax(-1), 1, generator=generator).squeeze(1)
