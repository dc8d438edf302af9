"""Patterns that leave no choice of the density."""

from rarefy.core.protocols import Pattern
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.transposable import Transposable


def fixed_density(pattern: Pattern) -> float | None:
    """The only density that a pattern has (N:M and its kin); None for all others.

    >>> fixed_density(NM(2, 4))
    0.5
    """
    return pattern.density if isinstance(pattern, NM | PaddedNM | Transposable) else None
