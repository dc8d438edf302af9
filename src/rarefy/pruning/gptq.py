"""GPTQ as a method: rounding, and pruning in the same sweep."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.gptq import GPTQ


@method(
    "gptq",
    source="Frantar et al. 2022, arXiv:2210.17323; joint with pruning: arXiv:2301.00774, section 3.5",
    protocols=("solver", "pattern", "allocation"),
)
def gptq(
    *,
    bits: int = 8,
    group: int | None = None,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    columns: int = 128,
    damping: float = 0.01,
) -> OneShot:
    """Rounds to integers and prunes in one sweep, each error made up for by the weights behind it.

    bits: 8 or 4; group: inputs that share a scale (None: a row). With sparsity=0 it only rounds and keeps the zeros
    that are there.
    """
    spec = QuantizeSpec(bits, group)
    return OneShot(GPTQ(spec, columns, damping), pattern, allocation, ranking=InputNorm(), quantize=spec)
