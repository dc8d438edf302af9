"""Bringing a pruned network back to the edge of chaos: each layer's second moment as it was."""

import math
from dataclasses import dataclass, field

from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Score, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.scores.snip import Snip
from rarefy.solvers.alive import select_alive


@method("edge-of-chaos", role="solver", source="Hayou et al. 2021, arXiv:2002.08797, section 4 (rescaling trick)")
@dataclass(frozen=True)
class EdgeOfChaos:
    """The mask of a score, and what is kept times rho = sqrt(moment / (n_in E[W^2 mask])).

    Signals keep their size over depth where n_in E[W^2] = sigma_w^2 of the edge of chaos (2 for ReLU, 1 for tanh and
    linear); pruning lowers the moment, and with it everything after the layer, geometrically.
    moment: sigma_w^2 to come to; None restores the layer's own, which is the same for a net that was initialised
    there (`rarefy.analysis.edge_of_chaos`) and right for any other.
    Differs: in the paper rho scales the output of the layer; here it is multiplied into the weights.
    """

    score: Score = field(default_factory=Snip)
    moment: float | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        mask = select_alive(pattern, self.score(weight, evidence), weight, density)
        kept = weight * mask
        now = float(kept.double().square().sum()) / max(1, weight.shape[0])  # n_in * mean of the squares
        whole = float(weight.double().square().sum()) / max(1, weight.shape[0])
        wanted = whole if self.moment is None else self.moment
        rho = math.sqrt(wanted / now) if now > 0 else 1.0
        return Solution(kept * rho, mask, {"rho": rho, "kept": int(mask.sum())})
