"""Patterns that have one density only."""

from rarefy.core.protocols import Pattern


def fixed_density(pattern: Pattern) -> float | None:
    """The only density that a pattern has (N:M and its kin say it as `density`); None for all others.

    >>> from rarefy.patterns.parse import parse_pattern
    >>> fixed_density(parse_pattern("t1:4")), fixed_density(parse_pattern("fanin"))
    (0.25, None)
    """
    density = getattr(pattern, "density", None)
    return float(density) if isinstance(density, int | float) else None
