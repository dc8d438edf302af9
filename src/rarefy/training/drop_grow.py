"""Prune-and-regrow: some kept weights go, as many others come."""

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.core.protocols import Schedule
from rarefy.core.shapes import Mask, Weight
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.schedules.cosine import Cosine
from rarefy.training.clock import Clock
from rarefy.training.growth import GrowExplore, GrowGradient
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.streamed_growth import exchange, exchange_rows, watched

_FIRST = 1e30  # above every score: what has survived stays


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


@dataclass(frozen=True)
class DropSmallest:
    """The kept weights of smallest magnitude go; where the pattern allows less, as many within each of its parts.

    Source: Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (3).
    """

    def __call__(self, run: Run, state: WeightState, fraction: float) -> Mask:
        return survivors(state, state.value().float().abs(), fraction)


def survivors(state: WeightState, score: Weight, fraction: float) -> Mask:
    """All kept entries but a fraction, those of the lowest scores (not negative); as many of each part of a pattern."""
    score = score.masked_fill(~state.mask, -1.0)
    if fixed_density(state.pattern) is None:
        return state.pattern.select(score, state.density * (1.0 - fraction)) & state.mask
    kept = state.kept
    return keep_top(score.reshape(1, -1), kept - exact_count(kept, fraction)).reshape(score.shape)


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
        for state in run.states:
            if 0 < state.kept < state.size:
                self._change(run, state, schedule(done))

    def wants_gradient(self, run: Run) -> bool:
        return self.grow.before and self.clock.due(run, "grow", run.step)

    def _change(self, run: Run, state: WeightState, fraction: float) -> None:
        remain, pattern = state.density * (1.0 - fraction), state.pattern
        if not self._streams(state):
            with run.opened(state):
                self._exchange(run, state, fraction)
            return
        assert isinstance(self.grow, GrowGradient | GrowExplore)
        score, shape = self.grow.score(run, state), state.shape
        if isinstance(pattern, Layerwise):
            exchange(run, state, pattern.count(*shape, remain), pattern.count(*shape, state.density), score)
        else:
            exchange_rows(run, state, partial(_next_rows, state, remain), score)

    def _streams(self, state: WeightState) -> bool:
        """Whether a packed weight needs no dense tensor for the change: the entries of a layer or of a row compete by
        what their own gradients say."""
        by_gradient = isinstance(self.grow, GrowGradient | GrowExplore)
        plain = by_gradient and isinstance(self.drop, DropSmallest) and self.return_dropped
        return plain and isinstance(state.pattern, Layerwise | Rowwise | FanIn) and watched(state)

    def _exchange(self, run: Run, state: WeightState, fraction: float) -> None:
        stay = self.drop(run, state, fraction)
        score = self.grow(run, state).float()
        rank = torch.where(stay, torch.full_like(score, _FIRST), score)
        if not self.return_dropped:
            rank = rank.masked_fill(state.mask & ~stay, torch.finfo(rank.dtype).min)
        run.set_mask(state, state.pattern.select(rank, state.density), self.grow.values(run, state))


def _next_rows(state: WeightState, remain: float, rows: range, entries: slice, here: Tensor, scores: Tensor) -> Mask:
    """Of some rows: their largest kept weights, as many as the density `remain` keeps, and the best scores."""
    size = torch.full_like(scores, -1.0)
    size.view(-1)[here] = state.weight.parameter.detach()[entries].abs().float()
    stay = state.pattern.select(size, remain) & (size >= 0.0)
    return state.pattern.select(torch.where(stay, _FIRST, scores), state.density)
