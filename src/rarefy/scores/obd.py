"""Optimal Brain Damage: the second-order change of the loss when a weight goes, with a diagonal Hessian."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("obd", role="score", source="LeCun et al. 1989 (Optimal Brain Damage), eq. 3 and step 4 (s_k = h_kk u_k^2 / 2)")
@dataclass(frozen=True)
class OBD:
    """Optimal Brain Damage saliency, h W_ij^2 / 2 with h the diagonal of the Hessian of the loss.

    Differs: the paper propagates second derivatives back and drops terms so that h is never negative; here h is the
    Hessian's own diagonal, estimated by products with random signs, and weights with h < 0 go first.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.HESSIAN_DIAGONAL})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return (0.5 * weight.double().square() * evidence[Need.HESSIAN_DIAGONAL].double()).to(weight.dtype)
