"""The diagonal of the Fisher information: what the loss rises by when a weight goes and nothing makes up for it."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("fisher", role="score", source="Theis et al. 2018, arXiv:1801.05787, eq. 6")
@dataclass(frozen=True)
class Fisher:
    """Diagonal Fisher saliency, W_ij^2 / 2 times the mean over samples of (dL/dW_ij)^2.

    Differs: gradients of the true labels (the empirical Fisher), as in the paper's practice.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FISHER_DIAGONAL})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return (0.5 * weight.double().square() * evidence[Need.FISHER_DIAGONAL].double()).to(weight.dtype)
