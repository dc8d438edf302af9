"""M-FAC: products with the inverse of the whole empirical Fisher, without any matrix of weights by weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import JointSolution, Supports, alone
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.solvers.fisher_inverse import row_inverse
from rarefy.solvers.fisher_rows import FisherRows, fisher_rows
from rarefy.solvers.surgeon import operate


@method("mfac", role="solver", source="Frantar et al. 2021 (M-FAC), arXiv:2107.03356, sections 3.1 and 4.1")
@dataclass(frozen=True)
class MFAC:
    """The surgeon's step with the whole F = lambda I + (1/m) sum g g^T over all layers, by the static algorithm.

    damping: the paper's lambda; average: consecutive samples whose mean is one gradient g, as in the paper, which
    takes as much less memory in what follows.
    """

    damping: float = 1e-5
    average: int = 1
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PER_SAMPLE_GRADIENT})

    def __post_init__(self) -> None:
        if self.damping <= 0 or self.average < 1:
            raise SparsityError(f"{self}: needs damping > 0 and average >= 1")

    def together(self, weight: Tensor, supports: Supports, evidence: Sequence[Evidence]) -> JointSolution:
        rows = averaged(fisher_rows(supports, evidence), self.average)
        inverse = row_inverse(rows, self.damping)
        return replace(operate(weight, supports, inverse), result={"damping": inverse.damping})

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        return alone(self, weight, pattern, density, evidence)


def averaged(rows: FisherRows, width: int) -> FisherRows:
    """Means over `width` consecutive samples; what is left over at the end makes one shorter mean."""
    if width == 1:
        return rows
    return FisherRows(tuple(_means(part, width) for part in rows.parts))


def _means(part: Tensor, width: int) -> Tensor:
    return torch.stack([some.mean(1) for some in part.split(width, dim=1)], dim=1)
