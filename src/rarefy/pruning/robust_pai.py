"""Robust pruning at initialization as a method."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern, Score
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.snip import Snip
from rarefy.solvers.edge_of_chaos import EdgeOfChaos
from rarefy.solvers.scored import Scored


@method(
    "robust-pai",
    source="Hayou et al. 2021, arXiv:2002.08797, sections 3 and 4",
    protocols=("score", "solver", "pattern", "allocation"),
)
def robust_pai(
    *,
    score: Score = Snip(),
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Global(),
    rescale: bool = True,
    moment: float | None = None,
    inputs: bool = False,
) -> OneShot:
    """Sensitivity pruning of an untrained net over all layers, each rescaled back to the edge of chaos.

    With the default score the rescaling overshoots without bound in deep nets of ReLUs, because such masks depend on
    the signal, which the paper's formula leaves out: take score=Random() or rescale=False there.
    inputs=True measures the rescaling on data (see `solvers.edge_of_chaos`). `rarefy.analysis.edge_of_chaos`
    initialises a net there, and reports which layers survive.
    """
    solver = EdgeOfChaos(score, moment, inputs) if rescale else Scored(score)
    return OneShot(solver, pattern, allocation, ranking=score)
