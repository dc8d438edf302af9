"""Weight times the norm of what it is multiplied with."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("input-norm", role="score", source="Sun et al. 2023 (Wanda), arXiv:2306.11695, eq. 1")
@dataclass(frozen=True)
class InputNorm:
    """|W_ij| * ||X_j||_2, the norm over all calibration tokens.

    Unchanged by rescaling an input feature and its column inversely, which magnitude is not.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_SQNORM})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return weight.abs() * evidence[Need.INPUT_SQNORM].sqrt().to(weight.dtype)
