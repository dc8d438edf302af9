"""How steep the loss is in a weight."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("gradient", role="score", source="Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (4), growth")
@dataclass(frozen=True)
class Gradient:
    """|dL/dW_ij|, the gradient being the mean over batches.

    It says where a weight is wanted, not what it does: alone it is for growing weights, and a baseline for pruning.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return evidence[Need.GRADIENT].abs().to(weight.dtype)
