"""Prune-and-regrow: some kept weights go, as many others come."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.core.protocols import Schedule
from rarefy.core.shapes import Mask, Weight
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.unstructured import Layerwise
from rarefy.schedules.cosine import Cosine
from rarefy.training.clock import Clock
from rarefy.training.offers import Offers, Values, free, watched
from rarefy.training.options import require_schedule, require_share
from rarefy.training.packed_change import PackedChange, ranked, streams
from rarefy.training.run import Run
from rarefy.training.state import WeightState


@runtime_checkable
class Drop(Protocol):
    """Which of the kept weights survive, a number of them being dropped."""

    @abstractmethod
    def __call__(self, run: Run, state: WeightState, fraction: float) -> Mask: ...


@runtime_checkable
class Grow(Protocol):
    """Scores (out, in) of the entries that are not kept: the largest come first.

    before: whether it looks at the dense gradient, which is there ahead of the optimizer's step only.
    """

    @property
    @abstractmethod
    def before(self) -> bool: ...
    @abstractmethod
    def __call__(self, run: Run, state: WeightState) -> Weight: ...
    @abstractmethod
    def values(self, run: Run, state: WeightState) -> Tensor | None:
        """What new entries begin with, (out, in); None for zero."""


@runtime_checkable
class OfKept(Protocol):
    """A drop that needs the kept values alone, `(kept,)`: which of these survive, None where each part of the pattern
    keeps its largest ones."""

    @abstractmethod
    def of_kept(self, state: WeightState, values: Tensor, fraction: float) -> Tensor | None: ...


@runtime_checkable
class Streams(Protocol):
    """A growth whose scores and values, the same ones, come in blocks where only the kept values exist."""

    @abstractmethod
    def offers(self, run: Run, state: WeightState) -> Offers: ...
    @abstractmethod
    def begin(self, run: Run, state: WeightState) -> Values | None: ...


@dataclass(frozen=True)
class DropSmallest:
    """The kept weights of smallest magnitude go; where the pattern allows less, as many within each of its parts.

    Source: Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (3).
    """

    def __call__(self, run: Run, state: WeightState, fraction: float) -> Mask:
        return survivors(state, state.value().float().abs(), fraction)

    def of_kept(self, state: WeightState, values: Tensor, fraction: float) -> Tensor | None:
        return _staying(state, values.float().abs(), fraction)


def survivors(state: WeightState, score: Weight, fraction: float) -> Mask:
    """All kept entries but a fraction, those of the lowest scores (not negative); as many of each part of a pattern."""
    stay = _staying(state, score[state.mask], fraction)
    if stay is None:
        score = score.masked_fill(~state.mask, -1.0)
        return state.pattern.select(score, state.density * (1.0 - fraction)) & state.mask
    return spread(state.mask, stay)


def _staying(state: WeightState, score: Tensor, fraction: float) -> Tensor | None:
    """The same of the kept entries alone, `(kept,)` in their order; None where parts of the weight decide."""
    if fixed_density(state.pattern) is not None:
        count = len(score) - exact_count(len(score), fraction)
    elif isinstance(state.pattern, Layerwise):
        count = min(len(score), state.pattern.count(*state.shape, state.density * (1.0 - fraction)))
    else:
        return None
    return keep_top(score[None], count)[0]


def spread(mask: Mask, stay: Tensor) -> Mask:
    """The mask of those of the kept entries that stay."""
    return torch.zeros_like(mask).masked_scatter_(mask, stay)


@dataclass(frozen=True)
class DropGrow:
    """At every tick of the clock a fraction of the kept weights is dropped and as many are grown.

    fraction: of the kept weights, over the steps; without it, half a cosine from `initial` to `final`, which it reaches
    at the clock's end. instead: whether a change of the masks takes the place of that step's optimizer step. What has
    just been dropped may be grown again where its score is large (RigL, section 3 (4)), unless `return_dropped` is off.
    """

    grow: Grow
    drop: Drop = field(default_factory=DropSmallest)
    clock: Clock = field(default_factory=Clock)
    initial: float = 0.3
    final: float = 0.0
    fraction: Schedule | None = None
    instead: bool = False
    return_dropped: bool = True

    def __post_init__(self) -> None:
        require_share("fraction", self.initial)
        require_share("the last fraction", self.final)
        require_schedule("schedule", self.fraction)

    @property
    def needs_end(self) -> bool:
        return self.clock.needs_end or self.fraction is None

    @property
    def exchanges(self) -> Clock:
        return self.clock

    def before(self, run: Run) -> bool:
        if not self.grow.before or not self.clock.due(run, "grow", run.step):
            return False
        self.update(run, run.step)
        return self.instead

    def after(self, run: Run) -> None:
        if not self.grow.before and self.clock.due(run, "grow", run.step + 1):
            self.update(run, run.step + 1)

    def update(self, run: Run, done: int) -> None:
        schedule = self.fraction or Cosine(self.initial, self.final, max(1, round(self.clock.end * run.end("grow"))))
        for state in run.moving:
            if 0 < state.kept < state.size:
                self._change(run, state, schedule(done))
                if self.instead and self.grow.before:
                    state.weight.parameter.grad = None  # no step follows that looks at it

    def wants_gradient(self, run: Run) -> bool:
        return self.grow.before and self.clock.due(run, "grow", run.step)

    def _change(self, run: Run, state: WeightState, fraction: float) -> None:
        remain, ready = state.density * (1.0 - fraction), watched if self.grow.before else free
        if not (isinstance(self.grow, Streams) and isinstance(self.drop, OfKept) and ready(state) and streams(state)):
            with run.opened(state):
                self._exchange(run, state, fraction)
            return
        stay = self.drop.of_kept(state, state.weight.parameter.detach(), fraction)
        change = PackedChange(run, state, stay, remain, self.return_dropped)
        change(self.grow.offers(run, state), self.grow.begin(run, state))

    def _exchange(self, run: Run, state: WeightState, fraction: float) -> None:
        stay = self.drop(run, state, fraction)
        rank = ranked(self.grow(run, state).float(), stay, state.mask, returns=self.return_dropped)
        run.set_mask(state, state.pattern.select(rank, state.density), self.grow.values(run, state))
