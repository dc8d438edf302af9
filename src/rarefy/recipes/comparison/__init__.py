"""`rarefy.compare`: methods side by side, like for like."""

from rarefy.recipes.comparison.comparison import Comparison
from rarefy.recipes.comparison.variant import Variant

__all__ = ["Comparison", "Variant"]
