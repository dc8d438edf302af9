"""Turbo-VBI: Bayesian compression whose prior wants the kept weights in runs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError, unknown_name
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Mask
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.chain import Chain
from rarefy.training.clock import Clock
from rarefy.training.gaussian import KL, Sampled, draw, learn_spread, sd_of, settle
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.support_prior import SupportPrior, infer
from rarefy.training.trainer import SparseTrainer
from rarefy.training.turns import turn

_ALONG = ("rows", "columns", "independent")


@dataclass(frozen=True)
class SupportStart:
    """Everything is kept; nothing is known of the supports but the asked density."""

    def __call__(self, run: Run) -> None:
        for state in run.states:
            shape = state.weight.shape
            state.extra["odds"] = torch.full(shape, state.density).clamp(1e-4, 1 - 1e-4).logit()
            state.extra["precision"] = torch.full(shape, 1.0 / max(1e-12, state.first_sd**2))


@dataclass(frozen=True)
class Turbo:
    """Every step the deviations learn; at ticks the supports are inferred; at the clock's end they are fixed.

    narrow: standard deviation of a weight that is not there, as a share of one that is; death: of the chains.
    """

    clock: Clock
    kl: KL
    lr: float
    narrow: float
    death: float
    along: str
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        learn_spread(run, self.kl, self.lr)
        return False

    def after(self, run: Run) -> None:
        done, (first, last) = run.step + 1, self.clock.window(run, "turbo-vbi")
        if done == last or (done >= first and done % self.clock.every == 0):
            for state in run.moving:
                self._infer(state, done > last)
        for state in turn(run, done == max(1, last)):
            before = state.mask
            run.set_mask(state, state.pattern.select(state.extra["odds"], state.density))
            settle(run, state, before)
        draw(run)

    def prior(self, state: WeightState) -> SupportPrior:
        """On the scale of the weights that would be kept when supports are first inferred."""
        if "wide" not in state.extra:
            square = state.value().double().square().flatten()
            state.extra["wide"] = square.topk(max(1, state.count)).values.mean().clamp_min(1e-12)
        wide = float(state.extra["wide"])
        return SupportPrior(1.0, wide, 1.0, wide * self.narrow**2)

    def chain(self, density: float) -> Chain:
        density = min(1.0 - 1e-4, max(1e-4, density))
        free = 1.0 - density
        return Chain(density, free if self.along == "independent" else min(self.death, free))

    def _infer(self, state: WeightState, fixed: bool) -> None:
        """<w^2> = mu^2 + s^2; once the mask is fixed, only the precisions of what is kept move."""
        square, prior = state.value().float().square() + sd_of(state).square(), self.prior(state)
        if fixed:
            shape, rate = prior.precision(torch.ones_like(square), square)
            state.extra["precision"] = shape / rate
            return
        chance = torch.sigmoid(state.extra["odds"])
        odds, precision = infer(square, chance, prior, self.chain(state.density), columns=self.along == "columns")
        state.extra["odds"], state.extra["precision"] = odds.float(), precision.float()


@method(
    "turbo-vbi-structured-bayes",
    source="Xia, Tsang and Lau 2023, arXiv:2302.10483, sections III and IV",
    protocols=("transform", "solver"),
)
def turbo_vbi(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = Uniform(),
    along: str = "rows",
    death: float = 0.1,
    narrow: float = 0.2,
    every: int = 50,
    begin: float = 0.2,
    end: float = 0.75,
    examples: int = 50_000,
    strength: float = 1.0,
    warm: float = 0.2,
    first: float = 0.1,
    lr: float = 0.01,
) -> SparseMethod:
    """Gaussian weights whose prior says: most are not there, and those that are lie in runs; kept are the likeliest.

    Every `every` steps after the share `begin` of total_steps the chance of every weight to be there is inferred, with
    Markov chains `along` "rows" or "columns" (or "independent": without chains); runs are 1 / death long on average.
    What is probably not there is pressed to N(0, (narrow * sd)^2), sd that of the largest weights when this begins. At
    the share `end` the likeliest are kept, at the asked sparsity, and go on training. The rest as for `ssvi`.
    `found_density` says how many weights are likelier there than not. Adam is assumed: the prior's pull is strong.
    Differs: the abstract and the catalog's formulas were at hand; the number of kept weights is asked for, the paper
    keeps those with a chance above 1/2; the Gammas' scales are set from the weights' own.
    """
    if along not in _ALONG:
        raise unknown_name("along", along, _ALONG)
    if not 0.0 < narrow < 1.0 or not 0.0 < death <= 1.0 or first <= 0.0 or lr < 0.0:
        raise SparsityError(
            f"turbo-vbi: narrow={narrow}, death={death}, first={first}, lr={lr}; give 0 < narrow < 1, 0 < death <= 1, "
            "first > 0 and lr >= 0"
        )
    kl = KL(examples, strength, warm)
    topology = Turbo(Clock(every, begin, end), kl, lr, narrow, death, along)
    return SparseMethod(SupportStart(), topology, Sampled(kl, first), pattern=pattern, allocation=allocation)


def found_density(trainer: SparseTrainer) -> dict[str, float]:
    """Of each weight the share of entries that were likelier there than not when supports were last inferred."""
    return {state.name: float((state.extra["odds"] > 0).float().mean()) for state in trainer.run.states}


def empty_rows(mask: Mask) -> Tensor:
    """Which neurons have lost all their inputs, (out,)."""
    return ~mask.any(1)


def runs(mask: Mask) -> int:
    """How many contiguous runs of kept entries the rows have."""
    before = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)
    return int((mask & ~before).sum())
