"""One ranking over all weights."""

import torch
from torch import Tensor

from rarefy.core.topk import exact_count, keep_top


def together(scores: list[Tensor], density: float) -> list[Tensor]:
    """Masks of the best entries of all matrices together at a density, at least one of each."""
    return best_of_all(scores, exact_count(sum(score.numel() for score in scores), density))


def best_of_all(scores: list[Tensor], count: int) -> list[Tensor]:
    """Masks of the `count` best entries of all matrices together, at least one of each."""
    flat = torch.cat([_with_best_first(score) for score in scores])
    kept = keep_top(flat[None], max(len(scores), count))[0]
    parts = kept.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def _with_best_first(score: Tensor) -> Tensor:
    lifted = score.float().flatten().clone()
    lifted[lifted.argmax()] = float("inf")
    return lifted
