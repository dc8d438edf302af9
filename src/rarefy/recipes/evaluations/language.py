"""Language models: windows of text, the loss of the next token, perplexity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError, ModelError
from rarefy.core.shapes import Int

_ROWS = 8  # windows of a batch


def next_token_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy in nats of each token of `input_ids` (rows, tokens) given those before it."""
    ids = batch["input_ids"]
    return F.cross_entropy(logits_of(model, batch)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(rows, tokens, vocabulary) of a language model; ModelError if it gives something else."""
    return logits_in(model(**batch), type(model).__name__)


def logits_in(output: Any, model: str) -> Tensor:
    """(rows, tokens, vocabulary) of what a model of that name gave; ModelError if it is something else."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise ModelError(f"{model}: gives no logits (rows, tokens, vocabulary); is it a language model?")
    return logits


def windows(tokens: Int[Tensor, "tokens"], size: int, count: int, seed: int | None = None) -> Tensor:
    """`(count, size)` windows of a text that do not overlap: drawn by `seed`, or spread evenly over it (None)."""
    whole = len(tokens) // size
    if size < 2 or whole < count or count < 1:
        raise DataError(
            f"text: has {len(tokens)} tokens, {max(whole, 0)} windows of {size}; {count} are asked: give more text, "
            "or fewer or shorter windows"
        )
    cut = tokens[: whole * size].view(whole, size)
    if seed is None:
        return cut[[i * whole // count for i in range(count)]].clone()
    chosen = torch.randperm(whole, generator=torch.Generator().manual_seed(seed))[:count]
    return cut[chosen.sort().values].clone()


def batches_of(cut: Int[Tensor, "windows tokens"], rows: int = _ROWS) -> list[dict[str, Tensor]]:
    """The windows as keyword arguments of a language model, several a batch."""
    return [{"input_ids": part} for part in cut.split(rows)]


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss a token over unseen windows `(windows, tokens)`, and the same loss in bits a byte of text.

    bytes_per_token: of the text that the windows were cut from (1 for a model of bytes).
    """

    cut: Tensor
    bytes_per_token: float = 1.0
    lower_is_better: tuple[str, ...] = ("bits_per_byte", "perplexity")

    def __call__(self, model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            parts: Sequence[dict[str, Tensor]] = batches_of(self.cut, 16)
            total = sum(float(next_token_loss(model, part)) * len(part["input_ids"]) for part in parts)
        nats = total / len(self.cut)
        return {"bits_per_byte": nats / math.log(2) / self.bytes_per_token, "perplexity": math.exp(min(nats, 700.0))}
