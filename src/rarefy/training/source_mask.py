"""A random source mask: whatever a method does, it sees only the weights inside."""

import math
from dataclasses import dataclass, field

import torch

from rarefy.allocations.balanced import Balanced
from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.allocations.pyramidal import Pyramidal
from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError, unknown_name
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.shapes import RowMask, Scores
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.method import Preparation, Start
from rarefy.training.run import SOURCE, Run
from rarefy.training.state import WeightState

RATIOS: dict[str, Allocation] = {
    "uniform": Uniform(),
    "erk": ErdosRenyi(),
    "balanced": Balanced(),
    "pyramidal": Pyramidal(),
}


@dataclass(frozen=True)
class InSource:
    """The unstructured pattern among the entries of the weight's source mask; all of them where more are asked for."""

    state: WeightState = field(repr=False, compare=False)
    inner: Pattern = field(default_factory=Layerwise)

    @property
    def granularity(self) -> tuple[int, int]:
        return self.inner.granularity

    @property
    def span(self) -> int | None:
        return self.inner.span

    def select(self, scores: Scores, density: float) -> RowMask:
        source = self.state.extra[SOURCE]
        return self.inner.select(scores.masked_fill(~source, -torch.inf), density) & source

    def allows(self, mask: RowMask) -> bool:
        return not bool((mask & ~self.state.extra[SOURCE]).any())

    def count(self, rows: int, n: int, density: float) -> int:
        return self.inner.count(rows, n, density)


@dataclass(frozen=True)
class DrawSource:
    """Draws the source masks, then prepares as the method inside does."""

    density: float
    ratios: str
    inner: Preparation | None

    def __call__(self, run: Run) -> None:
        self.draw(run)
        if self.inner is not None:
            self.inner(run)
            self.draw(run)  # of weights that came with new layers

    def draw(self, run: Run) -> None:
        densities = RATIOS[self.ratios]([state.weight for state in run.states], self.density, {})
        for state in run.states:
            if SOURCE in state.extra:
                continue
            if not isinstance(state.pattern, Layerwise):
                raise SparsityError(
                    f"{state.name}: random-pruning-start-sparse chooses freely inside a random mask, which "
                    f"{state.pattern} does not allow; leave the pattern out"
                )
            source = state.pattern.select(run.rand(state), densities[state.name])
            if int(source.sum()) < state.count:
                raise SparsityError(
                    f"{state.name}: the source keeps {int(source.sum())} of {source.numel()} weights, and "
                    f"{state.count} are asked for in the end; "
                    'give a larger source, or the same ratios to both (allocation="uniform")'
                )
            state.extra[SOURCE] = source
            state.pattern = InSource(state, state.pattern)


@dataclass(frozen=True)
class SourceStart:
    """The source masks, then the first masks of the method inside."""

    inner: Start

    def __call__(self, run: Run) -> None:
        for state in run.states:
            source = state.extra[SOURCE]
            run.set_mask(state, source)
            if state.master is not None:
                state.master.mul_(source)
        self.inner(run)


def source_density(source: float, ratios: str) -> float:
    """Checks what the user gave; `source` is a sparsity."""
    if ratios not in RATIOS:
        raise unknown_name("ratios", ratios, RATIOS)
    return density_of(source)


def width_factor(density: float) -> float:
    """How much wider a random net of that density has to be to contain a target: `1 / ln(1 / (1 - density))`.

    Up to logarithmic terms and constants. Source: Gadhikar et al. 2023, arXiv:2210.02412, theorem 2.3.

    >>> round(width_factor(0.5), 3)
    1.443
    """
    if not 0.0 < density < 1.0:
        raise SparsityError(f"width_factor: density {density} is outside (0, 1)")
    return 1.0 / math.log(1.0 / (1.0 - density))
