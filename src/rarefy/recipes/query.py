"""One search query answered by both models over the same passages, side by side."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rarefy.recipes.encoder import TextModel


def answers(
    text: TextModel, query: str, passages: Sequence[str], vectors: dict[str, tuple[nn.Module, Tensor]], top: int = 3
) -> dict[str, Any]:
    """The best passages for `query` by each named (model, vectors of the passages), best first, with their cosine."""
    found: dict[str, Any] = {}
    for name, (model, known) in vectors.items():
        asked = text.embed([query], model)[0]
        scores = known @ asked
        best = scores.topk(min(top, len(passages))).indices
        found[name] = [{"passage": passages[int(i)], "index": int(i), "score": float(scores[i])} for i in best]
    both = [{hit["index"] for hit in hits} for hits in found.values()]
    return {"query": query, "answers": found, "in_common": len(set.intersection(*both)), "top": top}
