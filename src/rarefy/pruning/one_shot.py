"""What a one-shot method is: a solver, where it may keep weights, and how the budget is spread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from rarefy.allocations.uniform import Uniform
from rarefy.calibration.blocks import Inputs
from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Allocation, Pattern, Score, Solver
from rarefy.core.site import Site
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.ladder import Ladder
from rarefy.pruning.learner import MaskLearner


@runtime_checkable
class BlockFit(Protocol):
    """Fits a block in place to the outputs wanted of it; its relative squared error before and after."""

    def __call__(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
    ) -> tuple[float, float]: ...


@runtime_checkable
class Finish(Protocol):
    """A last stage: `begin` looks at the dense model, what it gives works on the pruned one and says what it did."""

    def begin(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        batches: Sequence[Any],
        loss: Callable[[nn.Module, Any], Tensor] | None,
    ) -> Callable[[], dict[str, float]]: ...


@dataclass(frozen=True)
class OneShot:
    """A pruning method without training of the weights.

    ranking: the score by which the `global` allocation ranks weights across layers, where the solver's own
    criterion cannot be had for all layers at once. rounds: times that evidence is collected anew while the density
    falls to the one asked, by the `ladder` (see `pruning.ladder`); dealt: each round sees its own part of the data.
    learner: finds the masks of all layers together, from the loss; the solver then gets what is left of the weights.
    quantize: what the solver rounds the kept weights to, where it does. match: fits each block after its layers were
    solved. finish: what is done to the whole model at last, with a look at the dense one before.
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
    match: BlockFit | None = None
    finish: Finish | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise SparsityError(f"rounds: {self.rounds} is not a number of rounds; give at least 1")
