"""Where new weights come."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.bits import unpack_bits
from rarefy.core.errors import ModelError
from rarefy.core.shapes import Weight
from rarefy.training.offers import ByChance, ByGradient, Offers, Values, drawn_at
from rarefy.training.options import require_least
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

    def offers(self, run: Run, state: WeightState) -> Offers:
        return ByGradient(state)

    def begin(self, run: Run, state: WeightState) -> Values | None:
        return None


@dataclass(frozen=True)
class GrowExplore:
    """Where `|g| + c * ln(t) / (N + eps)` is largest: t the step, N the rounds in which the entry was kept so far.

    Source: Huang et al. 2023 (DST-EE), arXiv:2211.16667, eq. 1.
    """

    c: float = 1e-3
    eps: float = 1.0
    before: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_least("c", self.c)
        require_least("eps", self.eps, above=True)

    def __call__(self, run: Run, state: WeightState) -> Weight:
        seen = self._rounds(state)
        seen += state.mask
        return GrowGradient()(run, state) + self._bonus(run, seen)

    def offers(self, run: Run, state: WeightState) -> Offers:
        """Counts this round."""
        assert state.packed is not None
        seen = self._rounds(state).view(-1)
        seen[state.packed.places] += 1
        return ByGradient(state, lambda first, grad: grad.abs() + self._bonus(run, seen[first : first + len(grad)]))

    def begin(self, run: Run, state: WeightState) -> Values | None:
        return None

    def _rounds(self, state: WeightState) -> Tensor:
        if "rounds" not in state.extra:
            state.extra["rounds"] = torch.zeros(state.shape, dtype=torch.int32)
        return state.extra["rounds"]

    def _bonus(self, run: Run, seen: Tensor) -> Tensor:
        return self.c * math.log(max(1, run.step)) / (seen + self.eps)

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        return None


@dataclass(frozen=True)
class GrowMoment:
    """Where the optimizer's own direction is largest: `|m| / (sqrt(v) + 1e-8)` of Adam, the momentum of SGD.

    Of dropped entries the optimizer knows these only where it sees dense gradients (`Masked(wants_dense_grad=True)`).
    """

    before: ClassVar[bool] = False

    def __call__(self, run: Run, state: WeightState) -> Weight:
        first = run.moment(state, "exp_avg", "momentum_buffer")
        if first is None:
            raise ModelError(
                f"{state.name}: growth by momentum, but {type(run.optimizer).__name__} keeps none; use SGD with "
                "momentum=0.9 or an Adam"
            )
        second = run.moment(state, "exp_avg_sq")
        return first.abs() if second is None else first.abs() / (second.sqrt() + 1e-8)

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        return None


@dataclass(frozen=True)
class GrowRandom:
    """Anywhere, with equal chances. New weights are 0, or drawn from N(0, (spread * sd)^2), sd that of the
    weight before training.

    Source: Mocanu et al. 2018 (SET), arXiv:1707.04780, algorithm 1.
    """

    spread: float = 0.0
    before: ClassVar[bool] = False

    def __call__(self, run: Run, state: WeightState) -> Weight:
        return run.rand(state)

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        if self.spread == 0.0:
            return None
        noise = torch.randn(state.weight.shape, generator=run.generator)
        return noise * (self.spread * state.first_sd)

    def offers(self, run: Run, state: WeightState) -> Offers:
        return ByChance(run, state)

    def begin(self, run: Run, state: WeightState) -> Values | None:
        return None if self.spread == 0.0 else drawn_at(run, state, self.spread * state.first_sd)


@dataclass(frozen=True)
class GrowUnfired:
    """At random among the entries that were never kept in this run, at random among the others when those run out.

    Source: Yildirim et al. 2023, arXiv:2308.14831, section 3 ("unfired").
    """

    before: ClassVar[bool] = False

    def __call__(self, run: Run, state: WeightState) -> Weight:
        fired = state.explored if state.explored is not None else state.mask
        return run.rand(state) + (~fired).float()

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        return None

    def offers(self, run: Run, state: WeightState) -> Offers:
        return ByChance(run, state, lambda first, drawn: drawn + (~_fired(state, first, len(drawn))).float())

    def begin(self, run: Run, state: WeightState) -> Values | None:
        return None


def _fired(state: WeightState, first: int, count: int) -> Tensor:
    """Which entries of some rows of a packed weight were ever kept, from bits; flat."""
    assert state.tried is not None
    width = state.shape[1]
    return unpack_bits(state.tried[first // width : (first + count) // width], width).flatten()
