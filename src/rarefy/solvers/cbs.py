"""The Combinatorial Brain Surgeon: weights chosen for how they go together, then one repair for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import JointSolution, Supports, alone
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.solvers.eliminate import eliminate
from rarefy.solvers.fisher_rows import fisher_rows
from rarefy.solvers.quadratic import Quadratic
from rarefy.solvers.swaps import Swaps, swaps_of


@method("cbs", role="solver", source="Yu et al. 2022 (CBS), arXiv:2203.04466, sections 4 (CBS-S) and 5 (CBS-U)")
@dataclass(frozen=True)
class CBS:
    """Selects by magnitude, randomised, then swaps that lower w_P^T H w_P; updates to the joint optimum on the rest.

    damping: lambda of H = lambda I + mean g g^T, absolute, that of the repair is reported; draws and noise: masks by
    |w| times (1 + noise * normal) of which the best joins the plain one as a start (RMP); rounds and least: of swaps
    (LS), the least share of the first loss that a swap has to win (the paper's epsilon); rungs: of one more start by
    elimination.
    Differs: a round swaps the best pairs among 256 candidates a side with exact inner products, where the paper tries
    neighbours in two sorted lists; RMP perturbs magnitudes by factors instead of drawing from buckets of them; the
    start by elimination is ours. The mask of least w_P^T H w_P is taken, so it is never above that of any start.
    """

    damping: float = 1e-2
    draws: int = 10
    noise: float = 0.1
    rounds: int = 50
    least: float = 1e-6
    rungs: int = 4
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PER_SAMPLE_GRADIENT})

    def __post_init__(self) -> None:
        if self.damping <= 0 or min(self.draws, self.noise, self.rounds, self.least, self.rungs) < 0:
            raise SparsityError(f"{self}: needs damping > 0 and nothing else negative")

    def together(self, weight: Tensor, supports: Supports, evidence: Sequence[Evidence]) -> JointSolution:
        rows = fisher_rows(supports, evidence)
        quadratic = Quadratic(rows, weight, self.damping * rows.samples)
        swaps = swaps_of(rows, weight, supports, self.damping)
        starts = [supports.nearest(weight), self._randomised(weight, supports, swaps, evidence[0].seed)]
        if self.rungs:
            starts.append(eliminate(quadratic, supports, self.rungs))
        searched = [swaps.search(start, self.rounds, self.least) for start in starts]
        loss, mask = min(
            ((swaps.loss(swaps.removed(mask)), mask & supports.alive) for mask, _ in searched),
            key=lambda known: known[0],
        )
        best = quadratic.best_on(mask)
        result = {"damping": best.ridge / rows.samples, "selection_loss": loss}
        result |= {"objective": quadratic.value(best.weight) / rows.samples}
        return JointSolution(best.weight, mask, result | {"swaps": sum(count for _, count in searched)})

    def _randomised(self, weight: Tensor, supports: Supports, swaps: Swaps, seed: int) -> Tensor:
        """The best of some masks by magnitudes that are multiplied with random factors near 1."""
        generator = torch.Generator().manual_seed(seed)
        best, least = supports.nearest(weight), float("inf")
        for _ in range(self.draws):
            factor = 1.0 + self.noise * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            mask = supports.nearest(weight * factor)
            loss = swaps.loss(swaps.removed(mask))
            if loss < least:
                best, least = mask, loss
        return best

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        return alone(self, weight, pattern, density, evidence)
