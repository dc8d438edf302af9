"""Floor 6: named assemblies of the floors below. What users call."""

from rarefy.recipes import sparse_pretraining  # registered: found when the floor is loaded

__all__ = ["sparse_pretraining"]
