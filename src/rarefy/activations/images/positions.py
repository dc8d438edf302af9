"""Which positions of a feature map are kept: one random map for the whole network, seen at every resolution."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rarefy.core.shapes import Bool, Float
from rarefy.core.topk import exact_count, keep_top


def random_map(size: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "height width"]:
    """Scores in [0, 1) of the positions of the input."""
    return torch.rand(size, generator=generator)


def kept_positions(scores: Float[Tensor, "height width"], size: tuple[int, int], density: float) -> Bool[Tensor, "h w"]:
    """The mask of a feature map of `size`: the positions with the largest mean score of what lies under them.

    Exactly round(density * h * w) are kept, ties to the first. Where `size` does not divide the map's, the means are
    taken over adaptive windows.
    """
    pooled = F.adaptive_avg_pool2d(scores[None, None], size)
    return keep_top(pooled.view(1, -1), exact_count(size[0] * size[1], density)).view(size)
