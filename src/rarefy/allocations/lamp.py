"""LAMP: layer-adaptive magnitude, ranked over the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from rarefy.allocations.ranked import Global
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.core.site import Site


@dataclass(frozen=True)
class _Lamp:
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return lamp_scores(weight)


def lamp_scores(weight: Weight) -> Weight:
    """W_u^2 / sum over v with |W_v| >= |W_u| of W_v^2 within the layer, float64 (out, in).

    The largest weight of a layer scores 1. Of equal weights the later one counts as the larger, as in the paper's
    sort. Source: Lee et al. 2021 (LAMP), arXiv:2010.07611, eq. 3.
    """
    squares = weight.double().square().reshape(-1)
    ordered, order = squares.sort(stable=True)
    rest = ordered.flip(0).cumsum(0).flip(0)  # this one and all larger ones
    score = torch.zeros_like(squares)
    score[order] = ordered / rest.clamp_min(1e-300)
    return score.reshape(weight.shape)


@method("lamp", role="allocation", source="Lee et al. 2021 (LAMP), arXiv:2010.07611, section 3")
@dataclass(frozen=True)
class LAMP:
    """One ranking over the model by w_u^2 / sum of the squares at least as large in its layer.

    No layer is emptied while there is one weight a layer to give. Any method may then prune within the layers; with
    magnitude it is the paper's.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        return Global(_Lamp())(sites, density, evidence)
