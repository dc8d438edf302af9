"""Gradient signal preservation: keep what the flow of gradients needs."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("grasp", role="score", source="Wang et al. 2020 (GraSP), arXiv:2002.07376, eq. 8")
@dataclass(frozen=True)
class Grasp:
    """W_ij (H g)_ij: the first-order fall of |g|^2 / 2 when the weight goes; what would lower it most is kept.

    The paper's score S(-W) = -W * H g is of removal (large: remove), so this is its negative. It has a sign, and
    weights of negative score are those without which gradients would flow better.
    Differs: the paper divides the logits by a temperature of 200; put that into the loss.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.HESSIAN_GRADIENT})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return weight * evidence[Need.HESSIAN_GRADIENT].to(weight.dtype)
