"""What is compared on: a model with its calibration data by seed, its evaluation and its loss, made from files."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError, FileError
from rarefy.formats.folder import read_json
from rarefy.recipes.comparison.cell import Evaluate
from rarefy.recipes.encoder import TextModel
from rarefy.recipes.evaluations.encoder import Closeness, Retrieval, Similarity, Together, texts_of
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss, windows
from rarefy.recipes.evaluations.outputs import Accuracy, SameOutput, label_loss, labelled, output_rows
from rarefy.recipes.evaluations.retrieval import Collection
from rarefy.recipes.text import LANGUAGE_MODELS, split
from rarefy.recipes.tokenizer import read_tokenizer

Pair = tuple[str, str, float]  # two sentences, how alike they are


@dataclass(frozen=True)
class Subject:
    """data: a seed's calibration batches; said: what the data are, for the report."""

    model: nn.Module
    data: Callable[[int], list[Any]]
    evaluate: Evaluate
    loss: Callable[[nn.Module, Any], Tensor] | None
    said: str

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `rarefy.compare` that it stands for."""
        return {"data": self.data, "evaluate": self.evaluate, "loss": self.loss}


def language_subject(
    model: nn.Module,
    encode: Callable[[str], Sequence[int]],
    texts: Sequence[str],
    *,
    window: int = 256,
    calibration: int = 64,
    unseen: int = 80,
    held_out: float = 0.1,
) -> Subject:
    """Perplexity on the end of each text; each seed calibrates on other windows of what comes before.

    held_out: the fraction of each text, by bytes, that only the evaluation sees.
    """
    if not 0.0 < held_out < 1.0 or not texts:
        raise DataError(f"text: {len(texts)} text(s), {held_out} held out; give a text, and a fraction in (0, 1)")
    parts = [_cut(text, held_out) for text in texts]
    seen = torch.cat([_tokens(encode, before) for before, _ in parts])
    ends = [_tokens(encode, after) for _, after in parts]
    counts = [unseen // len(ends) + (i < unseen % len(ends)) for i in range(len(ends))]
    cut = torch.cat([windows(end, window, n) for end, n in zip(ends, counts, strict=True) if n])
    size = sum(len(after.encode()) for _, after in parts) / max(1, sum(map(len, ends)))
    said = f"{calibration} calibration windows and {len(cut)} unseen windows of {window} tokens"
    windows(seen, window, calibration)  # too little text is found out here

    def data(seed: int) -> list[Any]:
        return list(batches_of(windows(seen, window, calibration, seed)))

    return Subject(model, data, Perplexity(cut, size), next_token_loss, said)


def _cut(text: str, held_out: float) -> tuple[str, str]:
    raw = text.encode()
    at = int(len(raw) * (1.0 - held_out))
    return raw[:at].decode(errors="ignore"), raw[at:].decode(errors="ignore")


def _tokens(encode: Callable[[str], Sequence[int]], text: str) -> Tensor:
    return torch.tensor(list(encode(text)), dtype=torch.long)


def encoder_of_folder(folder: Path, vocabulary: int) -> Callable[[str], Sequence[int]]:
    """Text to token numbers by the folder's tokenizer; a vocabulary of 256 without one is that of bytes."""
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        tokenizer = read_tokenizer(folder)
        return lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if vocabulary != 256:
        raise FileError(f"{folder}: has no tokenizer, and a vocabulary of {vocabulary} is not that of bytes")
    return lambda text: list(text.encode())


def sentence_subject(
    text: TextModel,
    passages: Sequence[str],
    *,
    calibration: int = 256,
    unseen: int = 300,
    pairs: Sequence[Pair] = (),
    collection: Collection | None = None,
) -> Subject:
    """Cosine to the dense embeddings of unseen passages; STS-B and retrieval too where their data are given."""
    parts = split(passages, unseen)
    held = texts_of(text, parts.evaluation)
    found: list[Closeness | Similarity | Retrieval] = [Closeness(held, held.vectors(text.model))]
    if pairs:
        sentences = texts_of(text, [sentence for a, b, _ in pairs for sentence in (a, b)])
        found.insert(0, Similarity(sentences, torch.tensor([score for *_, score in pairs])))
    if collection is not None:
        queries, documents = texts_of(text, collection.queries), texts_of(text, collection.documents)
        found.append(Retrieval(queries, documents, collection.relevant))
    count = min(calibration, len(parts.train))

    def data(seed: int) -> list[Any]:
        return list(text.batches(random.Random(seed).sample(parts.train, count)))

    return Subject(text.model, data, Together(tuple(found)), None, f"{count} calibration passages")


def plain_subject(model: nn.Module, batches: Sequence[Any], *, classifier: bool = False, seed: int = 0) -> Subject:
    """A quarter of the batches is held back: accuracy of a classifier's (inputs, labels), or closeness to the dense
    outputs. Each seed calibrates on the others, in another order."""
    if len(batches) < 2:
        raise DataError(
            f"data: {len(batches)} batch(es); give at least 2, so that quality is measured on unseen inputs"
        )
    order = random.Random(seed).sample(range(len(batches)), len(batches))
    held = max(1, len(batches) // 4)
    unseen, train = [batches[i] for i in order[:held]], [batches[i] for i in order[held:]]

    def data(drawn: int) -> list[Any]:
        return random.Random(drawn).sample(train, len(train))

    said = f"{len(train)} calibration batches, {held} unseen"
    if classifier:
        labelled(batches)
        return Subject(model, data, Accuracy(labelled(unseen)), label_loss, said)
    return Subject(model, data, SameOutput(tuple(unseen), output_rows(model, unseen)), None, said)


def kind_of_folder(folder: Path) -> str:
    """ "language-model" where config.json names a class for causal language modelling, else "encoder"."""
    path = folder / "config.json"
    if not path.exists():
        raise FileError(f"{folder}: has no config.json; give a local Hugging Face folder or module:factory")
    named = read_json(path).get("architectures")
    names = named if isinstance(named, list) else []
    causal = any(str(name).endswith(LANGUAGE_MODELS) for name in names)
    return "language-model" if causal else "encoder"
