"""A weight relative to what its input and its output have, times the size of the input."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("ria", role="score", source="Zhang et al. 2024 (RIA), ICLR 2024, eqs. 2-3")
@dataclass(frozen=True)
class RelativeImportance:
    """(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2^power.

    The relative part keeps an input or an output channel of small weights from vanishing as a whole.
    power: the paper's a, 0.5 there; 0 leaves the inputs out.
    """

    power: float = 0.5
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_SQNORM})

    def __post_init__(self) -> None:
        if self.power < 0:
            raise SparsityError(f"{self}: the power of the input norm must not be negative; the paper's is 0.5")

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        size = weight.abs()
        tiny = 1e-30  # a row or column of nothing but zeros scores zero
        relative = size / size.sum(0).clamp_min(tiny) + size / size.sum(1, keepdim=True).clamp_min(tiny)
        return relative * evidence[Need.INPUT_SQNORM].sqrt().pow(self.power).to(weight.dtype)
