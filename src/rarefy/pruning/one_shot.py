"""What a one-shot method is: a solver, where it may keep weights, and how the budget is spread."""

from dataclasses import dataclass, field

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Allocation, Pattern, Score, Solver
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.ladder import Ladder
from rarefy.pruning.learner import MaskLearner


@dataclass(frozen=True)
class OneShot:
    """A pruning method without training of the weights.

    ranking: the score by which the `global` allocation ranks weights across layers, where the solver's own
    criterion cannot be had for all layers at once. rounds: times that evidence is collected anew while the density
    falls to the one asked, by the `ladder` (see `pruning.ladder`); dealt: each round sees its own part of the data.
    learner: finds the masks of all layers together, from the loss; the solver then gets what is left of the weights.
    quantize: what the solver rounds the kept weights to, where it does.
    """

    solver: Solver
    pattern: Pattern = field(default_factory=Layerwise)
    allocation: Allocation = field(default_factory=Uniform)
    ranking: Score | None = None
    rounds: int = 1
    ladder: Ladder = "geometric"
    dealt: bool = False
    learner: MaskLearner | None = None
    quantize: QuantizeSpec | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise SparsityError(f"rounds: {self.rounds} is not a number of rounds; give at least 1")
