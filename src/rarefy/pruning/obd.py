"""Optimal Brain Damage as a method."""

from rarefy.allocations.ranked import Global
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.obd import OBD
from rarefy.solvers.scored import Scored


@method("obd", source="LeCun et al. 1989 (Optimal Brain Damage), eq. 3", protocols=("score", "pattern", "allocation"))
def obd(*, pattern: Pattern = Layerwise(), allocation: Allocation = Global()) -> OneShot:
    """Keeps what the loss rises most by without, by the Hessian's diagonal; ranked over the whole model."""
    return OneShot(Scored(OBD()), pattern, allocation, ranking=OBD())
