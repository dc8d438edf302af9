"""One job for text models and for any other: what to calibrate, recover and measure with, and which shapes to time."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import call_model
from rarefy.core.errors import DataError
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.finetuning.distill import Embed
from rarefy.recipes.encoder import TextModel
from rarefy.recipes.evaluations.language import Perplexity
from rarefy.recipes.text import split

Vectors = Callable[[nn.Module, Callable[[int], None] | None], Tensor]
_EVALUATION = 300  # passages held back, at most


@dataclass(frozen=True)
class Task:
    """calibration and recovery: batches; evaluation: how many unseen inputs `vectors(model, advance)` gives
    `(evaluation, width)` outputs for; examples: batches at the shapes to time; unseen: their texts, if texts they are;
    embed: a batch's vectors from the model's output; carry: the folder whose tokenizer and other small files belong
    to the saved model; perplexity: of a language model, on the unseen inputs; held: the unseen inputs, if they are no
    texts."""

    model: nn.Module
    calibration: list[Any]
    recovery: list[Any]
    evaluation: int
    vectors: Vectors
    examples: list[Any]
    unseen: tuple[str, ...] = ()
    carry: Path | None = None
    text: TextModel | None = None
    embed: Embed | None = None
    perplexity: Perplexity | None = None
    held: Sequence[Any] = ()

    def perplexity_of(self, model: nn.Module) -> float | None:
        """None where it is no language model."""
        return None if self.perplexity is None else self.perplexity(model)["perplexity"]


def text_task(
    text: TextModel, passages: Sequence[str], *, calibration: int, seed: int = 0, extra: Sequence[str] = ()
) -> Task:
    """Passages split once: some never shown, all others to recover with, the first `calibration` for the method.

    extra: further passages, learnt from and never measured on.
    """
    parts = split(passages, _EVALUATION, seed, extra)
    return Task(
        text.model,
        text.batches(parts.train[:calibration]),
        text.batches(parts.train),
        len(parts.evaluation),
        _embedder(text, parts.evaluation),
        [text.example(1, text.max_tokens), text.example(16, text.max_tokens)],
        parts.evaluation,
        text.folder,
        text,
        text.vectors_of,
    )


def _embedder(text: TextModel, passages: Sequence[str]) -> Vectors:
    return lambda model, advance: text.embed(passages, model, advance=advance)


def smaller(task: Task, *, calibration: int, evaluation: int) -> Task:
    """The same job with fewer calibration batches (spread over all lengths) and fewer unseen passages."""
    step = max(1, len(task.calibration) // calibration)
    fewer = replace(task, calibration=task.calibration[::step][:calibration])
    if task.text is None:
        return fewer
    unseen = task.unseen[:evaluation]
    return replace(fewer, unseen=unseen, evaluation=len(unseen), vectors=_embedder(task.text, unseen))


def batch_task(model: nn.Module, batches: Sequence[Any], *, seed: int = 0) -> Task:
    """A quarter of the batches (one at least) is held back to measure with."""
    if len(batches) < 2:
        raise DataError(
            f"--data: {len(batches)} batch(es); give at least 2, so that quality is measured on unseen inputs"
        )
    order = list(range(len(batches)))
    random.Random(seed).shuffle(order)
    held = max(1, len(batches) // 4)
    unseen = [batches[i] for i in sorted(order[:held])]
    train = [batches[i] for i in sorted(order[held:])]

    def vectors(of: nn.Module, advance: Callable[[int], None] | None) -> Tensor:
        rows = []
        with torch.inference_mode():
            for i, batch in enumerate(unseen):
                rows.append(first_tensor(call_model(of, batch, i)).flatten(1))
                if advance is not None:
                    advance(len(rows[-1]))
        return torch.cat(rows)

    count = sum(_rows(batch) for batch in unseen)
    return Task(model, train, train, count, vectors, [unseen[0]], held=unseen)


def _rows(batch: Any) -> int:
    return len(first_tensor(batch))
