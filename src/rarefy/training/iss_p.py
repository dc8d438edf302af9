"""Iterative soft shrinkage: unimportant weights shrink a little at every step, and may come back."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.cut import Cut
from rarefy.training.method import SparseMethod
from rarefy.training.starts import DenseStart


@dataclass(frozen=True)
class SoftShrink:
    """After each step what the pattern would drop now is multiplied by `factor`; once the mask is cut, it holds.

    w <- w * factor where |w| is not among the kept, w elsewhere. factor 0 is iterative hard thresholding.
    """

    factor: float = 0.95
    wants_dense_grad: ClassVar[bool] = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = False

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad * state.mask

    def on_step(self, weight: Weight, state: Any) -> Weight:
        if not bool(state.mask.all()):
            return weight * state.mask
        kept = state.pattern.select(weight.float().abs(), state.density)
        return torch.where(kept, weight, weight * self.factor)


@method("iss-p", source="Jiang et al. 2023 (ISS-P), arXiv:2303.09650, section 3.2", protocols=("transform", "schedule"))
def iss_p(
    *, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform(), factor: float = 0.95, end: float = 0.75
) -> SparseMethod:
    """From the first step on the weights that would be pruned shrink by a factor; at `end` they are pruned for good.

    factor: of each step, in [0, 1); 0 sets them to zero each time (they still get gradients). end: share of
    total_steps after which the mask is fixed.
    """
    if not 0.0 <= factor < 1.0:
        raise SparsityError(f"iss-p: factor {factor} does not shrink; give 0 <= factor < 1")
    return SparseMethod(DenseStart(), Cut(end), SoftShrink(factor), pattern=pattern, allocation=allocation)
