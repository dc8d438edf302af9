"""Connection sensitivity: what the loss would change by if a connection went."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("snip", role="score", source="Lee et al. 2019 (SNIP), arXiv:1810.02340, eqs. 4-6")
@dataclass(frozen=True)
class Snip:
    """|W_ij dL/dW_ij|, the derivative of the loss by a gate c_ij at 1 on the weight.

    Differs: the paper divides by the sum over the model, which changes no order and is left out.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return (weight * evidence[Need.GRADIENT].to(weight.dtype)).abs()
