"""Where new weights come."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.shapes import Weight
from rarefy.training.run import Run
from rarefy.training.state import WeightState


@dataclass(frozen=True)
class GrowGradient:
    """Where the dense gradient is largest; new weights are 0.

    Source: Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (4).
    """

    before: ClassVar[bool] = True

    def __call__(self, run: Run, state: WeightState) -> Weight:
        grad = state.grad()
        return state.value() * 0 if grad is None else grad.abs()

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        return None


@dataclass(frozen=True)
class GrowRandom:
    """Anywhere, with equal chances. New weights are 0, or drawn from N(0, spread * sd of the kept weights).

    Source: Mocanu et al. 2018 (SET), arXiv:1707.04780, algorithm 1.
    """

    spread: float = 0.0
    before: ClassVar[bool] = False

    def __call__(self, run: Run, state: WeightState) -> Weight:
        return run.rand(state)

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        if self.spread == 0.0:
            return None
        kept = state.value()[state.mask]
        noise = torch.randn(state.weight.shape, generator=run.generator)
        return noise * (self.spread * float(kept.float().std(correction=0)))
