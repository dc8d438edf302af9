"""Layer-adaptive magnitude: a weight against all that are at least as large in its layer."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("lamp", role="score", source="Lee et al. 2021 (LAMP), arXiv:2010.07611, eq. 3")
@dataclass(frozen=True)
class Lamp:
    """W_u^2 / sum over v with |W_v| >= |W_u| of W_v^2, within one layer.

    In a layer it ranks as magnitude does; across layers the largest weight of each scores 1, so none is emptied.
    Ties are ranked by index: the later one counts as the larger, as in the paper's sort.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        squares = weight.double().square().reshape(-1)
        ordered, order = squares.sort(stable=True)
        rest = ordered.flip(0).cumsum(0).flip(0)  # this one and all larger ones
        score = torch.zeros_like(squares)
        score[order] = ordered / rest.clamp_min(1e-300)
        return score.reshape(weight.shape).to(weight.dtype)
