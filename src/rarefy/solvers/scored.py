"""The simplest solver: keep the best by a score, change nothing else."""

from dataclasses import dataclass

from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Score, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.solvers.alive import select_alive


@method("scored", role="solver", source="Han et al. 2015, arXiv:1506.02626")
@dataclass(frozen=True)
class Scored:
    """Keeps the entries with the largest score; the kept weights are bit-identical to what they were."""

    score: Score

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        mask = select_alive(pattern, self.score(weight, evidence), weight, density)
        return Solution(weight * mask, mask)
