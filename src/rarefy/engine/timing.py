"""Timing of alternatives side by side, which other floors use too."""

from rarefy.core.timing import Rounds, interleaved

__all__ = ["Rounds", "interleaved"]
