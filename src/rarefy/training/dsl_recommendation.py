"""Dynamic sparse learning of recommenders: embedding tables whose live entries move."""

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import unknown_name
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropGrow, Grow
from rarefy.training.growth import GrowGradient, GrowMoment
from rarefy.training.masked import Masked
from rarefy.training.method import SparseMethod
from rarefy.training.starts import RandomStart

_GROWTH: dict[str, Grow] = {"gradient": GrowGradient(), "moment": GrowMoment()}


@method(
    "dsl-recommendation",
    source="Wang et al. 2024 (DSL), arXiv:2402.02855, section 3",
    protocols=("transform", "schedule"),
)
def dynamic_sparse_learning(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    growth: str = "gradient",
    fraction: float = 0.3,
    final: float = 0.005,
    every: int = 100,
    end: float = 1.0,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """RigL's exchange on every matrix and every embedding table, each at its own constant count.

    growth: "gradient" (dense gradient) or "moment" (Adam's m / sqrt(v), kept for dead entries too). fraction, final: of
    the live entries of a table, on half a cosine over the share `end` of total_steps.
    """
    if growth not in _GROWTH:
        raise unknown_name("growth", growth, _GROWTH)
    topology = DropGrow(_GROWTH[growth], clock=Clock(every, 0.0, end), initial=fraction, final=final, fraction=schedule)
    transform = Masked(growth == "moment")
    return SparseMethod(RandomStart(), topology, transform, pattern=pattern, allocation=allocation, embeddings=True)
