"""The job on a language model: windows of running text instead of padded passages, and perplexity."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError
from rarefy.recipes.encoder import TextModel
from rarefy.recipes.evaluations.language import Perplexity, batches_of, logits_in, logits_of, windows
from rarefy.recipes.task import Task
from rarefy.recipes.text import LANGUAGE_MODELS, split

_SHORTEST = 8  # tokens of a window
_UNSEEN = 300  # windows and passages held back, at most


def writes(model: nn.Module) -> bool:
    """Whether it is a causal language model of transformers."""
    return type(model).__name__.endswith(LANGUAGE_MODELS)


def language_task(text: TextModel, passages: Sequence[str], *, calibration: int, seed: int = 0) -> Task:
    """Passages split once; what is held back and what is not are each joined and cut into windows without padding.

    A window has as many tokens as the model takes (128 at most), or what half of the held-back text has. calibration:
    windows for the method; recovery has all of them. Outputs that are compared: the logits behind each unseen window.
    """
    parts = split(passages, _UNSEEN, seed)
    seen, unseen = (_tokens(text, part) for part in (parts.train, parts.evaluation))
    size = min(text.max_tokens, len(unseen) // 2, len(seen))
    if size < _SHORTEST:
        raise DataError(
            f"text: {len(seen)} tokens to learn from and {len(unseen)} held back are too few for windows of "
            f"{_SHORTEST}; give more text"
        )
    learnt, held = len(seen) // size, min(_UNSEEN, len(unseen) // size)
    cut = windows(unseen, size, held)
    return Task(
        text.model,
        batches_of(windows(seen, size, min(calibration, learnt), seed)),
        batches_of(windows(seen, size, learnt)),
        held,
        _last_logits(cut),
        [text.example(1, text.max_tokens), text.example(16, text.max_tokens)],
        parts.evaluation,
        text.folder,
        text,
        _every_token,
        Perplexity(cut),
    )


def _tokens(text: TextModel, passages: Sequence[str]) -> Tensor:
    found = text.tokenizer("\n".join(passages), add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(found, dtype=torch.long)


def _every_token(output: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of every token `(rows * tokens, vocabulary)`."""
    return logits_in(output, "model").flatten(0, 1)


def _last_logits(cut: Tensor) -> Callable[[nn.Module, Callable[[int], None] | None], Tensor]:
    def vectors(model: nn.Module, advance: Callable[[int], None] | None) -> Tensor:
        found: list[Tensor] = []
        with torch.inference_mode():
            for batch in batches_of(cut):
                found.append(logits_of(model, batch)[:, -1].float())
                if advance is not None:
                    advance(len(found[-1]))
        return torch.cat(found)

    return vectors
