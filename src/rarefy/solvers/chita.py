"""CHITA: pruning as a sparse regression on the gradients of single samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import JointSolution, Supports, alone
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.solvers.block_quadratic import BlockQuadratic
from rarefy.solvers.exchange import exchange
from rarefy.solvers.fisher_rows import fisher_rows
from rarefy.solvers.hard_thresholding import descend
from rarefy.solvers.pairs import swap_pairs
from rarefy.solvers.quadratic import Quadratic, Refitted


@method("chita", role="solver", source="Benbaki et al. 2023 (CHITA), arXiv:2302.14623, problem 4 and algorithms 1-2")
@dataclass(frozen=True)
class CHITA:
    """min over allowed w of 1/2 |y - A w|^2 + n lambda/2 |w - c|^2, A the gradients of n samples, y = A c - first e.

    By hard thresholding from the magnitude mask and from its least-squares weights, each end refitted on its support
    by one n x n system, then exchanges of many weights at once and of single ones. The lowest objective wins, so it is
    never above magnitude's with the same refit. No matrix of weights by weights is ever made.
    damping: lambda, absolute, that of the last refit is reported; first: share of the first-order term, 1 as in the
    formula, 0 for a model at an optimum; iterations, exchanges, swaps: most of each; tolerance: relative fall of the
    objective below which descent ends.
    block: the Fisher is cut down to diagonal blocks of so many consecutive weights of a layer, each with its own
    system: for networks with many more weights than samples. Exchanges and swaps need the whole and have to be 0.
    Differs: the paper restricts descent to a growing active set of columns; here every step looks at all of them. The
    exchanges and swaps are ours.
    """

    damping: float = 0.1
    first: float = 1.0
    iterations: int = 50
    exchanges: int = 20
    swaps: int = 20
    tolerance: float = 1e-5
    block: int | None = None
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PER_SAMPLE_GRADIENT})

    def __post_init__(self) -> None:
        if self.damping <= 0 or min(self.first, self.iterations, self.exchanges, self.swaps, self.tolerance) < 0:
            raise SparsityError(f"{self}: needs damping > 0 and nothing else negative")
        if self.block is not None and (self.block < 1 or self.exchanges or self.swaps):
            raise SparsityError(f"{self}: blocks are searched by descent only; give block >= 1, exchanges=0, swaps=0")

    def together(self, weight: Tensor, supports: Supports, evidence: Sequence[Evidence]) -> JointSolution:
        rows = fisher_rows(supports, evidence)
        if self.block is not None:
            blocks = BlockQuadratic(rows, weight, self.damping * rows.samples, self.first, self.block)
            return self._solution(blocks, self._descended(blocks, weight, supports), supports, rows.samples, 0)
        quadratic = Quadratic(rows, weight, self.damping * rows.samples, self.first)
        best = self._descended(quadratic, weight, supports)
        best, swapped = exchange(quadratic, best, supports, self.exchanges)
        best, pairs = swap_pairs(quadratic, best, supports, self.swaps)
        return self._solution(quadratic, best, supports, rows.samples, swapped + pairs)

    def _descended(self, quadratic: Quadratic | BlockQuadratic, weight: Tensor, supports: Supports) -> Refitted:
        """The best of the refits on the magnitude mask and on where descent from there ends."""
        plain = supports.nearest(weight)
        ends = [quadratic.best_on(plain)]
        for start in (weight * plain, ends[0].weight) if self.iterations else ():
            end = descend(quadratic, start, supports, self.iterations, self.tolerance)
            ends.append(quadratic.best_on(supports.nearest(end)))
        return min(ends, key=lambda end: quadratic.value(end.weight))

    def _solution(
        self, quadratic: Quadratic | BlockQuadratic, best: Refitted, supports: Supports, samples: int, swapped: int
    ) -> JointSolution:
        result = {"damping": best.ridge / samples, "objective": quadratic.value(best.weight) / samples}
        return JointSolution(best.weight, supports.nearest(best.weight), result | {"exchanges": swapped})

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        return alone(self, weight, pattern, density, evidence)
