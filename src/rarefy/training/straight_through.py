"""The straight-through transform: a dense weight behind a sparse view."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rarefy.core.shapes import Weight
from rarefy.training.loaded import TakesAsIs
from rarefy.training.options import require_least


@dataclass(frozen=True)
class StraightThrough(TakesAsIs):
    """The forward pass sees `w * mask`; the gradient at it updates the whole dense `w`.

    decay: lambda of SR-STE, which adds `decay * (1 - mask) * w` to the gradient, so that what is not kept shrinks
    (Zhou et al. 2021, arXiv:2102.04010, eq. 9).
    """

    decay: float = 0.0
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_least("decay", self.decay)

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad + self.decay * (weight * ~state.mask) if self.decay else grad

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight
