"""Powerpropagation: large weights move faster, so small ones stay small."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.core.shapes import Mask, Weight
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.gradual import Gradual
from rarefy.training.method import SparseMethod
from rarefy.training.starts import DenseStart


@dataclass(frozen=True)
class Power:
    """The optimizer trains v, the forward pass sees w = v |v|^(alpha - 1) where the mask keeps.

    dL/dv = dL/dw * alpha |v|^(alpha - 1): steps in proportion to the size. v begins such that w is the given weight.
    Source: Schwarz et al. 2021, arXiv:2110.00296, eq. 1 to 3 and appendix B (initialization).
    """

    alpha: float = 2.0
    wants_dense_grad: ClassVar[bool] = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        state.master = state.master.sign() * state.master.abs() ** (1.0 / self.alpha)

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * weight.abs() ** (self.alpha - 1.0) * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad * (self.alpha * weight.abs() ** (self.alpha - 1.0)) * state.mask

    def take(self, seen: Weight, changed: Mask, state: Any) -> None:
        """The v of each w that was written."""
        state.master.copy_(torch.where(changed, seen.sign() * seen.abs() ** (1.0 / self.alpha), state.master))

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask


@method("powerpropagation", source="Schwarz et al. 2021, arXiv:2110.00296, eq. 1", protocols=("transform", "schedule"))
def powerpropagation(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    alpha: float = 2.0,
    every: int = 100,
    begin: float = 0.5,
    end: float = 0.75,
    schedule: Schedule | None = None,
) -> SparseMethod:
    """Trains v with w = v |v|^(alpha - 1), which leaves most weights near zero, and prunes by magnitude.

    alpha: at least 1 (1: ordinary training). begin, end, every, schedule: of the pruning, as for "gmp-zhu-gupta".
    Differs: the paper prunes at once after training; here gradually and late, which with `schedule` can be one cut.
    """
    if alpha < 1.0:
        raise SparsityError(f"powerpropagation: alpha {alpha} makes small weights move fastest; give alpha >= 1")
    topology = Gradual(Clock(every, begin, end), schedule)
    return SparseMethod(DenseStart(), topology, Power(alpha), pattern=pattern, allocation=allocation)
