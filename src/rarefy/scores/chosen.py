"""A mask that was found elsewhere, as a score."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("chosen", role="score", source="Fang et al. 2024 (MaskLLM), arXiv:2409.17481, section 3.2")
@dataclass(frozen=True)
class Chosen:
    """1 where the mask that was found for all layers together keeps a weight, 0 elsewhere."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CHOSEN_MASK})

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return evidence[Need.CHOSEN_MASK].to(weight.dtype)
