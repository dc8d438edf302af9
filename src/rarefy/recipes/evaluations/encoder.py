"""Sentence encoders: closeness to the dense model, sentence similarity, retrieval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.recipes.encoder import TextModel, pool
from rarefy.recipes.evaluations.ranking import ndcg, spearman


@dataclass(frozen=True)
class Texts:
    """Texts as batches of tokens of like length, and where each row belongs: order[i] is the text of row i."""

    batches: tuple[Mapping[str, Tensor], ...]
    order: Tensor
    pooling: str

    def vectors(self, model: nn.Module) -> Tensor:
        """Unit vectors `(texts, width)` in the order of the texts."""
        with torch.inference_mode():
            rows = [pool(first_tensor(model(**b)), b["attention_mask"], self.pooling) for b in self.batches]
        found = torch.cat(rows).float()
        return torch.empty_like(found).index_copy_(0, self.order, found)


def texts_of(text: TextModel, passages: Sequence[str], size: int = 32) -> Texts:
    """Tokenised once, so that every model sees the same."""
    if not passages:
        raise DataError("texts: none given")
    lengths = [text.length(passage) for passage in passages]
    order = sorted(range(len(passages)), key=lengths.__getitem__)
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    batches = tuple(text.batch([passages[i] for i in part]) for part in parts)
    return Texts(batches, torch.tensor(order), text.pooling)


@dataclass(frozen=True)
class Closeness:
    """Mean cosine between the embeddings of unseen texts and those of the dense model, `wanted` (texts, width)."""

    texts: Texts
    wanted: Tensor

    def __call__(self, model: nn.Module) -> dict[str, float]:
        return {"cosine": float(F.cosine_similarity(self.texts.vectors(model), self.wanted, dim=1).mean())}


@dataclass(frozen=True)
class Similarity:
    """Spearman's correlation between the cosine of two sentences and how alike people find them.

    texts: first and second sentences in turn; scores `(pairs,)`. Source: Cer et al. 2017, arXiv:1708.00055 (STS-B).
    """

    texts: Texts
    scores: Tensor

    def __call__(self, model: nn.Module) -> dict[str, float]:
        vectors = self.texts.vectors(model)
        return {"sts_spearman": spearman((vectors[::2] * vectors[1::2]).sum(1), self.scores)}


@dataclass(frozen=True)
class Retrieval:
    """nDCG@10 of queries over documents by cosine. relevant: {document: grade} of each query."""

    queries: Texts
    documents: Texts
    relevant: tuple[Mapping[int, float], ...]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        scores = self.queries.vectors(model) @ self.documents.vectors(model).t()
        return {"ndcg@10": ndcg(scores, self.relevant)}


@dataclass(frozen=True)
class Together:
    """Several evaluations as one, the most important first."""

    parts: tuple[Closeness | Similarity | Retrieval, ...]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in self.parts:
            found |= part(model)
        return found
