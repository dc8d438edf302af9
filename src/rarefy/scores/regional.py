"""Wanda with the gradient of the block that the weight lies in."""

from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("wanda-plus-plus", role="score", source="Yang et al. 2025 (Wanda++), arXiv:2503.04992, section 3 (RGS)")
@dataclass(frozen=True)
class RegionalGradient:
    """(strength * G_ij + ||X_j||_2) * |W_ij|, G the root mean square of the regional gradients.

    The region is the block, its loss the norm of its output: a backward pass through one block at a time.
    strength: the paper's alpha, 100 there.
    Differs: a gradient a batch, not a sample (give batches of one sample for the same); both terms are divided by the
    root of the tokens that they are taken over, so that neither grows with the data.
    """

    strength: float = 100.0
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_SQNORM, Need.REGIONAL_GRADIENT})

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise SparsityError(f"{self}: the strength of the gradient must not be negative; the paper's is 100")

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        norm = (evidence[Need.INPUT_SQNORM] / max(1, evidence.tokens)).sqrt().to(weight.dtype)
        return (self.strength * evidence[Need.REGIONAL_GRADIENT].to(weight.dtype) + norm) * weight.abs()
