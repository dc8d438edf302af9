"""A budget in milliseconds: the densities that keep most quality at an asked, measured speed-up."""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, as_call, inference
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.site import Site, find_sites
from rarefy.engine.plan import tokens_of
from rarefy.patterns.nm import NM
from rarefy.pruning import OneShot, PruneReport
from rarefy.pruning.resolve import resolve_allocation, resolve_method, resolve_pattern
from rarefy.recipes.target_curve import Curve
from rarefy.recipes.target_losses import SOLVED, Losses
from rarefy.recipes.target_search import Allocate, Densities, LeastLoss
from rarefy.recipes.target_times import LayerTimes, Speed, measured_speed, pruned_as, trial

LEAST_DENSITY = 0.02
_OPTIONS = 60  # densities a layer may have, in equal factors from LEAST_DENSITY to 1
_ROUGH = 0.06  # how near a quick allocation comes before the layers' weights are searched
_CLOSE = 0.02  # the feedback stops when the measured speed-up is this near to the asked one
_ALLOWED = 0.05  # and a result further off than this is said to have missed
_TRIALS = 6
_SOLVES = 3
WHOLE = "kept whole: the asked speed-up does not need its zeros"


@dataclass(frozen=True)
class Job:
    """What is asked. inputs: one call of the model, at which speed is measured."""

    model: nn.Module
    method: Any
    one_shot: OneShot
    pattern: Pattern
    sites: Sequence[Site]
    inputs: Any
    ignore: Sequence[str]
    target: float


def prune_to_speed(
    model: nn.Module,
    method: str | OneShot,
    target_speedup: float,
    *,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | None = None,
    data: Iterable[Any] | None = None,
    example_inputs: Any = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> PruneReport:
    """Prunes `model` in place so that compiled it is `target_speedup` times faster than dense torch, measured here.

    example_inputs: one call of the model (a tensor, a tuple or a dict), by default the first batch of `data`.
    allocation: None spreads the milliseconds so that the model loses least (`recipes.target_search`); a name spreads
    zeros that way ("uniform", "erk", ...) and finds how many are needed. Layers that need no zeros stay whole.

    How the model's time follows the times of its layers (measured a layer and density) is learnt by compiling copies
    pruned by magnitude until the whole is within 2 %, then the method runs and is measured too.
    On any error the model is as it was. Raises SparsityError when no density reaches the target, and says what does.
    """
    if not target_speedup > 0:
        raise SparsityError(f"target_speedup: {target_speedup} is not positive; give e.g. 2.0 for twice as fast")
    name, one_shot = resolve_method(method, options)
    support = resolve_pattern(pattern, one_shot.pattern)
    batches = as_batches(data, method=name, needed=bool(one_shot.solver.needs))
    inputs = _inputs(example_inputs, batches, loss)
    sites, ignored = find_sites(model, ignore)
    job = Job(model, one_shot, one_shot, support, sites, inputs, ignore, target_speedup)
    started = time.perf_counter()
    with inference(model):
        tokens = tokens_of(model, sites, lambda: model(*as_call(inputs)[0], **as_call(inputs)[1]))
        times = LayerTimes(support, tokens)
        allocate = (
            _spread(job, allocation, times)
            if allocation is not None
            else _least_loss(
                job, times, Losses(model, one_shot, support, sites, batches, _solved(support), loss=loss, seed=seed)
            )
        )
        search = _Search(job, allocate, times)
        plan = search.run()
    report, speed, solves = _solve(job, plan, search, batches, loss=loss, seed=seed, progress=progress)
    whole = {n: WHOLE for n in report.skipped if n not in ignored}
    spread = "latency" if allocation is None else str(allocation)
    reached = {
        "asked": target_speedup,
        "achieved": speed.ratio,
        "dense_ms": speed.dense_ms,
        "compiled_ms": speed.compiled_ms,
        "trials": plan.trials,
        "solves": solves,
        "seconds": time.perf_counter() - started,
    }
    return replace(report, method=name, allocation=spread, skipped={**report.skipped, **whole}, target=reached)


def _inputs(example: Any, batches: Sequence[Any], loss: object) -> Any:
    if example is not None:
        return example[0] if isinstance(example, list) else example
    if batches and loss is None:
        return batches[0]
    raise DataError("target_speedup: needs example_inputs=, a call of the model, to measure its speed with")


def _solved(pattern: Pattern) -> tuple[float, ...]:
    return (pattern.density,) if isinstance(pattern, NM) else SOLVED


def _densities(pattern: Pattern) -> list[float]:
    """What a layer may become, sparsest first, whole last."""
    if isinstance(pattern, NM):
        return [pattern.density, 1.0]
    return [LEAST_DENSITY ** (1.0 - i / (_OPTIONS - 1)) for i in range(_OPTIONS)]


def _least_loss(job: Job, times: LayerTimes, losses: Losses, seed: int = 0) -> LeastLoss:
    """The knapsack over (site, density), and zeros spread evenly where the model prefers that."""
    options = {site.name: [(d, times(site, d)) for d in _densities(job.pattern)] for site in job.sites}
    rivals = [] if isinstance(job.pattern, NM) else [_spread(job, name, times) for name in ("uniform", "erk")]
    return LeastLoss(job.model, job.sites, options, losses, rivals, seed)


def _spread(job: Job, allocation: str | Allocation, times: LayerTimes) -> Allocate:
    """The largest overall density whose layers, spread by an allocation, are within the budget."""
    spread = resolve_allocation(allocation, job.one_shot)
    if isinstance(job.pattern, NM) or spread.needs:
        raise SparsityError(
            f"target_speedup: allocation {type(spread).__name__} cannot be spread by time; leave it out, or name one "
            "that needs no data, like 'uniform' or 'erk', with a pattern of any density"
        )
    sites = [site for site in job.sites if times(site, 1.0) > 0]

    def at(density: float) -> Densities:
        return {**{site.name: 1.0 for site in job.sites}, **spread(sites, density, {})}

    def allocate(budget: float) -> Densities | None:
        low, high = LEAST_DENSITY, 1.0
        if _layers_ms(job, times, at(low)) > budget:
            return None
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if _layers_ms(job, times, at(middle)) <= budget else (low, middle)
        return at(low)

    return allocate


def _layers_ms(job: Job, times: LayerTimes, densities: Mapping[str, float]) -> float:
    return sum(times(site, densities[site.name]) for site in job.sites)


@dataclass(frozen=True)
class Plan:
    """densities: that were measured at `speed`; trials: copies compiled so far."""

    densities: Densities
    speed: Speed
    trials: int


class _Search:
    """Tries allocations until the whole model takes what it should.

    Times are against the first measurement of the dense model, so that a drift of the machine changes nothing.
    """

    def __init__(self, job: Job, allocate: Allocate, times: LayerTimes) -> None:
        self.job, self.allocate, self.times = job, allocate, times
        self.dense = measured_speed(job.model, job.model, job.inputs)
        self.wanted = self.dense.dense_ms / job.target
        if job.target <= self.dense.ratio:
            self._refuse_easy()
        whole = _layers_ms(job, times, dict.fromkeys((site.name for site in job.sites), 1.0))
        self.curve = Curve([(whole, self.dense.dense_ms / self.dense.ratio)])
        self.fastest: Densities = {site.name: self._fastest(site) for site in job.sites}
        self.trials = 0

    def _fastest(self, site: Site) -> float:
        return min(reversed(_densities(self.job.pattern)), key=lambda d: self.times(site, d))

    def run(self) -> Plan:
        """First the curve with a quick allocation, then the allocation that was asked for."""
        if isinstance(self.allocate, LeastLoss):
            self._approach(self.allocate.plain, _ROUGH)
        return self._approach(self.allocate, _CLOSE)

    def _approach(self, allocate: Allocate, close: float) -> Plan:
        best: Plan | None = None
        for _ in range(_TRIALS):
            densities = allocate(self.curve.layers_for(self.wanted))
            plan = self._try(self.fastest if densities is None else densities)
            if best is None or _off(plan, self.job) < _off(best, self.job):
                best = plan
            if _off(best, self.job) <= close:
                break
            if densities is None and plan.speed.ratio < self.job.target * (1 - _CLOSE):
                self._refuse_hard(plan)
        assert best is not None
        return replace(best, trials=self.trials)

    def _try(self, densities: Densities) -> Plan:
        job = self.job
        self.trials += 1
        speed = trial(job.model, job.sites, densities, job.pattern, job.ignore, job.inputs)
        self.curve.add(_layers_ms(job, self.times, densities), self.dense.dense_ms / speed.ratio)
        return Plan(densities, speed, self.trials)

    def _refuse_easy(self) -> None:
        raise SparsityError(
            f"target_speedup: {self.job.target:g}x needs no zeros here: rarefy.compile alone makes the dense model "
            f"{self.dense.ratio:.2f}x faster; ask for more, or just compile"
        )

    def _refuse_hard(self, plan: Plan) -> None:
        raise SparsityError(
            f"target_speedup: {self.job.target:g}x cannot be reached here: with {1 - LEAST_DENSITY:.0%} zeros in each "
            f"layer that gains from them the model is {plan.speed.ratio:.2f}x faster, the best reachable with "
            f"{torch.get_num_threads()} threads at these inputs; ask for less, or give larger inputs; nothing changed"
        )


def _off(plan: Plan, job: Job) -> float:
    """How far the measured speed-up is from the asked one, relative to it."""
    return abs(plan.speed.ratio / job.target - 1.0)


def _solve(
    job: Job, plan: Plan, search: _Search, batches: Sequence[Any], **options: Any
) -> tuple[PruneReport, Speed, int]:
    """Runs the method, measures, and corrects the budget where its masks take other times than the trial's."""
    before = [site.parameter.detach().clone() for site in job.sites]
    dense, densities = copy.deepcopy(job.model), plan.densities
    try:
        for count in range(1, _SOLVES + 1):
            report = pruned_as(
                job.model, job.method, job.sites, densities, job.pattern, job.ignore, data=batches or None, **options
            )
            speed = measured_speed(job.model, dense, job.inputs)
            again = _corrected(search, densities, speed)
            if abs(speed.ratio / job.target - 1.0) <= _ALLOWED * 0.8 or again is None or count == _SOLVES:
                break
            densities = again
            _restore(job, before)
    except BaseException:
        _restore(job, before)
        raise
    if abs(speed.ratio / job.target - 1.0) > _ALLOWED:
        warnings.warn(
            f"target_speedup: {speed.ratio:.2f}x was measured, {job.target:g}x was asked; the machine is busy or its "
            "speed drifts: let nothing else run and prune again",
            stacklevel=4,
        )
    return report, speed, count


def _corrected(search: _Search, densities: Densities, speed: Speed) -> Densities | None:
    """Densities for the time that is missing or left; None where that changes nothing."""
    missing = search.wanted - search.dense.dense_ms / speed.ratio
    layers = _layers_ms(search.job, search.times, densities) + missing / search.curve.slope()
    again = search.allocate(layers)
    return None if again == densities else again


def _restore(job: Job, before: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for site, weight in zip(job.sites, before, strict=True):
            site.parameter.copy_(weight)
