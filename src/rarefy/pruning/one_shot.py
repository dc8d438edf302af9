"""What a one-shot method is: a solver, where it may keep weights, and how the budget is spread."""

from dataclasses import dataclass, field

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Score, Solver
from rarefy.patterns.unstructured import Layerwise


@dataclass(frozen=True)
class OneShot:
    """A pruning method without training.

    ranking: the score by which the `global` allocation ranks weights across layers, where the solver's own
    criterion cannot be had for all layers at once.
    """

    solver: Solver
    pattern: Pattern = field(default_factory=Layerwise)
    allocation: Allocation = field(default_factory=Uniform)
    ranking: Score | None = None
