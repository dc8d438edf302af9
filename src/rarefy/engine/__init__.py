"""Floor 5: making the zeros pay. Measured choice of kernels, whole-model compilation, comparison with rivals."""

from rarefy.engine.compile import compile
from rarefy.engine.compiled import Compiled
from rarefy.engine.explain import Explanation, LayerRow

__all__ = ["Compiled", "Explanation", "LayerRow", "compile"]
