"""Selection that respects zeros that are already there."""

import math

from rarefy.core.protocols import Pattern
from rarefy.core.shapes import Mask, Weight


def select_alive(pattern: Pattern, scores: Weight, weight: Weight, density: float) -> Mask:
    """The pattern's choice among the weights that are not zero yet.

    A zero weight is chosen last and never comes back, so a model that is pruned already keeps its zeros and
    they count towards the asked sparsity.
    """
    alive = weight != 0
    return pattern.select(scores.masked_fill(~alive, -math.inf), density) & alive
