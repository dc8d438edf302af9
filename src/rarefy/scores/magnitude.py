"""Absolute value: the score that every other one has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("magnitude", role="score", source="Han et al. 2015, arXiv:1506.02626, section 3.1")
@dataclass(frozen=True)
class Magnitude:
    """Absolute value of the weight, |W_ij|."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        return weight.abs()
