"""Text models of a local Hugging Face folder: loading without network or foreign code, batches, embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import FileError
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.formats.folder import read_json
from rarefy.recipes.text import Count, counter
from rarefy.recipes.tokenizer import read_tokenizer

MAX_TOKENS = 128
Advance = Callable[[int], None]


@dataclass(frozen=True)
class TextModel:
    """A model, its tokenizer and where they came from. pooling: "mean" or "cls", as the folder says."""

    model: nn.Module
    tokenizer: Any
    folder: Path
    pooling: str
    max_tokens: int

    def batch(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts as the model's keyword arguments, padded to the longest."""
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        wanted = ("input_ids", "attention_mask", "token_type_ids")
        return {name: encoded[name] for name in wanted if name in encoded}

    def batches(self, texts: Sequence[str], size: int = 16) -> list[dict[str, Tensor]]:
        """Batches of texts of like length, which saves padding."""
        ordered = sorted(texts, key=self.length)
        return [self.batch(ordered[i : i + size]) for i in range(0, len(ordered), size)]

    def length(self, text: str) -> int:
        return len(self.tokenizer.tokenize(text))

    def count(self) -> Count:
        """Token counts of single words."""
        return counter(self.tokenizer.tokenize)

    def example(self, rows: int, tokens: int) -> dict[str, Tensor]:
        """A full batch `(rows, tokens)` of words from the vocabulary, no padding: what timings are taken at."""
        generator = torch.Generator().manual_seed(0)
        size = int(getattr(self.model.config, "vocab_size", 1000))
        ids = torch.randint(min(1000, size // 2), size, (rows, tokens), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def vectors_of(self, output: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors `(batch, width)` of a model's output."""
        return pool(first_tensor(output), batch["attention_mask"], self.pooling)

    def embed(
        self, texts: Sequence[str], model: nn.Module | None = None, size: int = 16, advance: Advance | None = None
    ) -> Tensor:
        """Unit vectors `(texts, width)` in the order of the texts, by this model or by another with its tokenizer."""
        run = self.model if model is None else model
        order = sorted(range(len(texts)), key=lambda i: self.length(texts[i]))
        found: list[Tensor] = []
        with torch.inference_mode():
            for i in range(0, len(order), size):
                batch = self.batch([texts[j] for j in order[i : i + size]])
                found.append(self.vectors_of(run(**batch), batch))
                if advance is not None:
                    advance(len(found[-1]))
        vectors = torch.empty(len(texts), found[0].shape[1])
        vectors[torch.tensor(order)] = torch.cat(found)
        return vectors


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Unit vectors `(batch, width)` of hidden states `(batch, tokens, width)`; padding counts for nothing."""
    if pooling == "cls":
        return F.normalize(hidden[:, 0], dim=1)
    weights = mask[:, :, None].to(hidden.dtype)
    return F.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1), dim=1)


def load_text_model(folder: Path, model: nn.Module | None = None) -> TextModel:
    """The model of a folder with config.json, *.safetensors and tokenizer files; nothing is fetched or executed.

    model: use this one (say, a sparse one) with the folder's tokenizer.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; give a local Hugging Face folder or module:factory")
    if not (folder / "config.json").is_file():
        raise FileError(f"{folder}: has no config.json; a Hugging Face folder has config.json and *.safetensors")
    if model is None:
        from rarefy.recipes.store import load

        model = load(folder)
    tokenizer = read_tokenizer(folder)
    limit = int(getattr(model.config, "max_position_embeddings", MAX_TOKENS))
    return TextModel(model.eval(), tokenizer, folder, pooling_of(folder), min(MAX_TOKENS, limit))


def pooling_of(folder: Path) -> str:
    """ "cls" where the folder's 1_Pooling/config.json says so, else "mean"."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    return "cls" if read_json(path).get("pooling_mode_cls_token") else "mean"
