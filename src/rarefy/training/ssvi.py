"""Sparse subspace variational inference: a Bayesian net of which only a few weights exist at any time."""

from dataclasses import dataclass

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.errors import SparsityError, unknown_name
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.core.shapes import Mask
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.clock import Clock
from rarefy.training.drop_grow import DropGrow, survivors
from rarefy.training.gaussian import KL, Sampled, draw, learn_spread, sd_of, settle
from rarefy.training.growth import GrowGradient
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.signal import CRITERIA, signal
from rarefy.training.starts import RandomStart
from rarefy.training.state import WeightState


@dataclass(frozen=True)
class DropUncertain:
    """The kept weights of which the least is sure go: those of the lowest criterion."""

    criterion: str
    rate: float

    def __call__(self, run: Run, state: WeightState, fraction: float) -> Mask:
        return survivors(state, signal(state.value(), sd_of(state), self.criterion, self.rate), fraction)


@dataclass(frozen=True)
class GaussianStart:
    """Random masks; what is not kept has mean 0."""

    def __call__(self, run: Run) -> None:
        RandomStart()(run)
        for state in run.states:
            assert state.master is not None
            state.master.mul_(state.mask)


@dataclass(frozen=True)
class Subspace:
    """Every step the standard deviations learn and the noise is drawn anew; at ticks weights are exchanged."""

    exchange: DropGrow
    kl: KL
    lr: float

    @property
    def needs_end(self) -> bool:
        return self.exchange.needs_end

    @property
    def exchanges(self) -> Clock:
        return self.exchange.clock

    def before(self, run: Run) -> bool:
        learn_spread(run, self.kl, self.lr)
        if self.exchange.clock.due(run, "ssvi", run.step):
            masks = [state.mask for state in run.moving]
            self.exchange.update(run, run.step)
            for state, mask in zip(run.moving, masks, strict=True):
                settle(run, state, mask)
        return False

    def after(self, run: Run) -> None:
        draw(run)


@method("ssvi", source="Li et al. 2024, arXiv:2402.11025, algorithm 1", protocols=("transform", "score"))
def ssvi(
    *,
    pattern: Pattern = Layerwise(),
    allocation: Allocation = ErdosRenyi(),
    criterion: str = "snr-abs",
    rate: float = 1.0,
    fraction: float = 0.3,
    every: int = 100,
    end: float = 0.75,
    schedule: Schedule | None = None,
    examples: int = 50_000,
    strength: float = 0.1,
    warm: float = 0.1,
    prior_sd: float = 0.2,
    first: float = 0.3,
    lr: float = 0.01,
) -> SparseMethod:
    """Trains Gaussians N(mu, s^2) for a fixed number of weights: those that are mostly noise are exchanged.

    They make place for weights of large gradients, which begin with mean 0 and the mean s of those that stayed. The
    model's parameters hold one draw between steps; `rarefy.training.posterior` averages over draws and gives the means.
    criterion: see `signal.signal`. fraction, every, end, schedule: of the exchange, as for `rigl`. examples: of the
    training set, by which the KL is divided; strength: its factor (1 = the plain evidence bound); warm: share of
    total_steps over which it rises. prior_sd: of the prior; first: the first s as a share of the weights' own standard
    deviation; lr: of s, by Adam.
    Differs: one draw a step for the whole batch (and for all batches whose gradients are accumulated); additions look
    at the gradient of one step.
    """
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, CRITERIA)
    if first <= 0.0 or lr < 0.0 or rate <= 0.0:
        raise SparsityError(f"ssvi: first={first}, lr={lr}, rate={rate}; give first > 0, lr >= 0, rate > 0")
    kl = KL(examples, strength, warm, prior_sd)
    drop = DropUncertain(criterion, rate)
    exchange = DropGrow(GrowGradient(), drop, Clock(every, 0.0, end), initial=fraction, fraction=schedule)
    topology = Subspace(exchange, kl, lr)
    return SparseMethod(GaussianStart(), topology, Sampled(kl, first), pattern=pattern, allocation=allocation)
