"""The size of an input alone: what Wanda has beyond magnitude."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("activation-norm", role="score", source="Molchanov et al. 2017, arXiv:1611.06440, section 2.2 (activation)")
@dataclass(frozen=True)
class ActivationNorm:
    """||X_j||_2 for every weight of input j: whole inputs go, the same for every output.

    Differs: the paper ranks feature maps by the mean of their activations; here it is the norm, per weight.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_SQNORM})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return evidence[Need.INPUT_SQNORM].sqrt().to(weight.dtype).expand_as(weight).clone()
