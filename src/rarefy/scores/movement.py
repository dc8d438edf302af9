"""Movement: keep the weights that training moves away from zero."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("movement", role="score", source="Sanh et al. 2020 (movement pruning), arXiv:2005.07683, eq. 4")
@dataclass(frozen=True)
class Movement:
    """-W_ij dL/dW_ij: positive where a step of gradient descent makes the weight larger in size.

    The paper accumulates S_ij = -sum_t W_ij(t) dL/dW_ij(t) while it fine-tunes. Without fine-tuning W(t) = W, and
    the sum over batches is W times the mean gradient: the movement that training would begin with.
    Differs: one point in place of a path, so on a converged model, where mean gradients vanish, it is mostly noise.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return -weight * evidence[Need.GRADIENT].to(weight.dtype)
