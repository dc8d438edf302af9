"""Transposable N:M training: one mask that is N:M for the forward and the backward product."""

from rarefy.core.protocols import Pattern
from rarefy.core.registry import method
from rarefy.patterns.transposable import Transposable
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.starts import MagnitudeStart
from rarefy.training.straight_through import StraightThrough


@method(
    "transposable-ste", source="Hubara et al. 2021, arXiv:2102.08124, section 4", protocols=("pattern", "transform")
)
def transposable_ste(*, pattern: Pattern = Transposable(2, 4), every: int = 40, decay: float = 0.0) -> SparseMethod:
    """STE with masks that are N:M along inputs and along outputs, so that x W and dy W^T both skip zeros.

    every: steps between choices of the masks (40 in the paper); decay: of dropped weights, as in "sr-ste".
    """
    return SparseMethod(MagnitudeStart(), Refresh(every), StraightThrough(decay), pattern=pattern)
