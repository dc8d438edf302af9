"""Deep rewiring: weights that change sign go to sleep, others wake at random."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.unstructured import Layerwise
from rarefy.training import optimizers
from rarefy.training.method import SparseMethod
from rarefy.training.options import require_least
from rarefy.training.run import Run
from rarefy.training.starts import RandomStart
from rarefy.training.state import WeightState


@dataclass(frozen=True)
class SignedMasked:
    """Masked weights `w = s * theta` with a fixed sign s and an L1 pull of `l1` on theta."""

    l1: float = 1e-4
    wants_dense_grad: ClassVar[bool] = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = False

    def init(self, state: Any) -> None:
        state.extra["sign"] = torch.where(state.value() < 0, -1.0, 1.0)

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return (grad + self.l1 * state.extra["sign"]) * state.mask

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask


@dataclass(frozen=True)
class Rewire:
    """After every step: noise on the kept weights, then those whose theta fell below 0 sleep and as many wake.

    A weight that wakes begins at 0 with a random sign. Noise of each kept theta: sqrt(2 * lr * temperature) * N(0, 1).
    Source: Bellec et al. 2018 (DEEP R), arXiv:1711.05136, algorithm 1.
    """

    temperature: float = 0.0
    needs_end: ClassVar[bool] = False
    why_dense: ClassVar[str] = (
        "the method may exchange weights after every step, by signs and random numbers of the dense shape, so that "
        "nothing would stay packed from one step to the next; set changes its masks every few steps"
    )

    def __post_init__(self) -> None:
        require_least("temperature", self.temperature)

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        for state in run.moving:
            if 0 < state.kept < state.mask.numel():
                self._rewire(run, state)

    def _rewire(self, run: Run, state: WeightState) -> None:
        if self.temperature:
            lr = float((optimizers.group_of(run.optimizer, state.weight.parameter) or {})["lr"])
            noise = torch.randn(state.weight.shape, generator=run.generator) * math.sqrt(2 * lr * self.temperature)
            state.put((state.value() + run.agreed(noise)) * state.mask)
        awake = state.mask & (state.value() * state.extra["sign"] >= 0)
        if bool((awake == state.mask).all()):
            return
        draw = run.rand(state).masked_fill(state.mask & ~awake, -1.0)
        mask = run.agreed(state.pattern.select(torch.where(awake, torch.full_like(draw, 2.0), draw), state.density))
        signs = torch.where(run.agreed(run.rand(state)) < 0.5, -1.0, 1.0)
        state.extra["sign"] = torch.where(mask & ~awake, signs, state.extra["sign"])
        run.set_mask(state, mask)


@method("deep-rewiring", source="Bellec et al. 2018, arXiv:1711.05136, algorithm 1", protocols=("transform",))
def deep_rewiring(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    l1: float = 1e-4,
    temperature: float = 0.0,
) -> SparseMethod:
    """Every kept weight has a fixed sign; one that crosses zero is dropped, and a random one wakes in its place.

    Masks may change after every step, so the weights stay dense under `runtime="sparse"`.
    l1: alpha, the pull towards zero in units of the loss; temperature: of the random walk (0: none). Meant for plain
    SGD, whose step is the paper's; with other optimizers the pull goes through their preconditioning.
    """
    return SparseMethod(RandomStart(), Rewire(temperature), SignedMasked(l1), pattern=pattern, allocation=allocation)
