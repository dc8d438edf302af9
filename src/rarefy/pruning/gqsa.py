"""GQSA: groups of 16 weights are pruned and rounded to 4 bits together."""

from rarefy.allocations.uniform import Uniform
from rarefy.calibration.grid_match import GridMatch
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.patterns.block import Block
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.scale_tuning import ScaleTuning
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.group_saliency import GroupSaliency
from rarefy.solvers.quantized import Quantized


@method(
    "gqsa",
    source="Zeng et al. 2024, arXiv:2412.17560, section 3",
    protocols=("pattern", "score", "solver", "format", "kernel"),
)
def gqsa(
    *,
    bits: int = 4,
    group: int = 16,
    pattern: Pattern | None = None,
    allocation: Allocation = Uniform(),
    passes: int = 10,
    rate: float = 0.02,
    tuning: int = 2,
    tuning_rate: float = 2e-3,
    power: float = 1.0,
    damping: float = 0.01,
) -> OneShot:
    """Drops whole groups of a row by their OBS saliency, rounds the rest, then fits blocks and at last all scales.

    group: inputs that share a scale and stay or go together; passes, rate: of the first stage, which trains the kept
    weights of each block on their grid (`calibration.grid_match`); tuning, tuning_rate: of the second, which trains the
    scales of the whole model (`pruning.scale_tuning`) by `loss`, or without one towards the dense model's outputs; 0 of
    either leaves a stage out. The file format is `formats.codes`, the kernels are the engine's `matvec4`.
    Differs: the grid is symmetric, as the engine's: no zero points; rounding starts from GPTQ's sweep under the mask
    instead of the nearest integers; the exponent of the saliency could not be checked against the paper, see `power`
    of `solvers.group_saliency`; the kernels balance threads by rows of about equal bytes, not by single groups.
    """
    spec = QuantizeSpec(bits, group)
    return OneShot(
        Quantized(GroupSaliency(power, damping), spec, damping=damping),
        pattern or Block(1, group),
        allocation,
        ranking=InputNorm(),
        quantize=spec,
        match=GridMatch(passes, rate, group) if passes else None,
        finish=ScaleTuning(tuning, tuning_rate) if tuning else None,
    )
