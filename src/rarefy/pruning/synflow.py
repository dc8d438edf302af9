"""Synaptic flow: pruning without data."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.synflow import SynapticFlow
from rarefy.solvers.scored import Scored


@method(
    "synflow",
    source="Tanaka et al. 2020 (SynFlow), arXiv:2006.05467, algorithm 1",
    protocols=("score", "pattern", "allocation"),
)
def synflow(*, pattern: Pattern = Layerwise(), allocation: Allocation = Global(), rounds: int = 100) -> OneShot:
    """Keeps what carries most flow from inputs to outputs, in many rounds, ranked over the whole model.

    Of `data` only the shapes of one batch are used. rounds: the paper's n = 100; the density falls geometrically.
    """
    return OneShot(Scored(SynapticFlow()), pattern, allocation, ranking=SynapticFlow(), rounds=rounds)
