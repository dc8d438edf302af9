"""The loop around the method: solve, measure, correct the budget, until the pruned model is as fast as was asked."""

import copy
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from rarefy.pruning import PruneReport
from rarefy.recipes.target_curve import corrected
from rarefy.recipes.target_evidence import Remembering
from rarefy.recipes.target_job import Job
from rarefy.recipes.target_plan import Plan, Search
from rarefy.recipes.target_search import Densities
from rarefy.recipes.target_times import Speed, pruned_as

Weights = dict[str, list[Tensor]]  # of each site: the weight and the biases that a repair may move

ALLOWED = 0.05  # a result further off than this has missed
_ENOUGH = 0.03  # where corrections stop: the rest of what is allowed is for the next measurement's noise
_ROUNDS = 10  # measurements; one model is measured twice before it is taken
_SAME = 3  # times that one choice of densities is measured before it is taken for the nearest there is


@dataclass(frozen=True)
class Round:
    """One measurement: the milliseconds that the layers were given, and what was measured."""

    layers_ms: float
    dense_ms: float
    compiled_ms: float
    speedup: float


@dataclass(frozen=True)
class Solved:
    """The model that came nearest, its speed over all measurements of it, and every round on the way.

    correction: the layers' milliseconds of this model over those of the first.
    """

    report: PruneReport
    speed: Speed
    rounds: tuple[Round, ...]
    correction: float


def solve_to_speed(job: Job, plan: Plan, search: Search, batches: Sequence[Any], **options: Any) -> Solved:
    """Runs the method at the plan's densities and corrects the budget by what is measured, weights from the dense ones.

    Layers whose density changes are solved again on the evidence of the first pass (`Remembering`). A model that is
    near enough is measured once more before it is taken; the nearest stays where none is. Each budget comes from a line
    through all measurements so far (`target_curve.corrected`), which single disturbed ones move little. Raises
    SparsityError with the best reachable where the sparsest layers are too slow.
    """
    work = _Work(job, batches, options)
    densities = plan.densities
    rounds: list[Round] = []
    tried: list[Densities] = []
    try:
        while len(rounds) < _ROUNDS:
            report = work.solve(densities)
            speed = job.speed(job.model, work.dense, job.inputs)
            layers = search.layers(densities)
            rounds.append(Round(layers, speed.dense_ms, speed.compiled_ms, speed.ratio))
            tried.append(densities)
            best = work.keep_nearest(densities, report, speed)
            if tried.count(densities) == _SAME or (len(best.speeds) > 1 and job.off(best.speed) <= _ENOUGH):
                break
            if job.off(speed) > _ENOUGH:
                points = [(r.layers_ms, search.dense.dense_ms / r.speedup) for r in rounds]
                calm = min(r.dense_ms for r in rounds)
                trust = [(calm / r.dense_ms) ** 4 for r in rounds]  # a busy machine makes both slow, and not alike
                budget = corrected(points, search.wanted, search.curve.slope(), trust)
                densities = search.allocate(budget) or search.fastest
        best = work.nearest()
        if tried[-1] == search.fastest and best.speed.ratio < job.target * (1 - ALLOWED):
            search.refuse_hard(best.speed)
    except BaseException:
        put_back(job, work.before)
        raise
    if job.off(best.speed) > ALLOWED:
        _warn_missed(job, best.speed, len(rounds))
    change = search.layers(best.densities) / rounds[0].layers_ms
    return Solved(best.report, best.speed, tuple(rounds), change)


def _warn_missed(job: Job, speed: Speed, rounds: int) -> None:
    why = (
        "the machine is busy or its speed drifts: let nothing else run and prune again"
        if rounds == _ROUNDS
        else "no choice of these layers and this pattern comes nearer"
    )
    warnings.warn(
        f"target_speedup: {speed.ratio:.2f}x was measured after {rounds} rounds, {job.target:g}x was asked; {why}",
        stacklevel=5,
    )


@dataclass(frozen=True)
class _Best:
    """The nearest model so far: its weights, and every measurement of it."""

    densities: Densities
    report: PruneReport
    weights: Weights
    speeds: tuple[Speed, ...]

    @property
    def speed(self) -> Speed:
        """The medians."""
        return Speed(
            median(s.dense_ms for s in self.speeds),
            median(s.compiled_ms for s in self.speeds),
            median(s.ratio for s in self.speeds),
        )


class _Work:
    """The model being pruned again and again from the same dense weights."""

    def __init__(self, job: Job, batches: Sequence[Any], options: dict[str, Any]) -> None:
        self.job, self.batches, self.options = job, batches, options
        self.before = held(job)
        self.dense = copy.deepcopy(job.model)
        self._solver = Remembering(job.one_shot.solver)
        self._last: tuple[Densities, PruneReport] | None = None
        self._best: _Best | None = None

    def solve(self, densities: Densities) -> PruneReport:
        """The model pruned to these densities: only what changed, where that can be."""
        report = None if self._last is None else self._changed(densities, *self._last)
        if report is None:
            put_back(self.job, self.before)
            self._solver = Remembering(self.job.one_shot.solver)
            method = replace(self.job.one_shot, solver=self._solver)
            given = self.job.sites, densities, self.job.pattern, self.job.ignore
            report = pruned_as(self.job.model, method, *given, data=self.batches or None, **self.options)
        self._last = densities, report
        return report

    def _changed(self, densities: Densities, before: Densities, report: PruneReport) -> PruneReport | None:
        """The report after solving again the layers whose density changed; None where one of them was never seen."""
        job, rows = self.job, {row.name: row for row in report.sites}
        changed = [site for site in job.sites if densities[site.name] != before[site.name]]
        anew = [site for site in changed if densities[site.name] < 1.0]
        learnt = job.one_shot.learner is not None  # its masks belong to one density
        if anew and (learnt or any(s.name not in rows or not self._solver.knows(s) for s in anew)):
            return None
        skipped = dict(report.skipped)
        put_back(job, self.before, {site.name for site in changed})
        for site in changed:
            row = rows.pop(site.name, None)
            if densities[site.name] < 1.0 and row is not None:
                rows[site.name] = self._solver.again(site, densities[site.name], row)
            else:
                skipped[site.name] = "ignored as asked"
        order = [site.name for site in job.sites if site.name in rows]
        return replace(report, sites=tuple(rows[name] for name in order), skipped=skipped)

    def keep_nearest(self, densities: Densities, report: PruneReport, speed: Speed) -> _Best:
        """Takes a measurement in: one more of the nearest model, or a nearer model."""
        best = self._best
        if best is not None and best.densities == densities:
            self._best = replace(best, speeds=(*best.speeds, speed))
        elif best is None or self.job.off(speed) < self.job.off(best.speed):
            self._best = _Best(densities, report, held(self.job), (speed,))
        assert self._best is not None
        return self._best

    def nearest(self) -> _Best:
        """Puts the best result into the model."""
        assert self._best is not None
        put_back(self.job, self._best.weights)
        return self._best


def held(job: Job) -> Weights:
    """Copies of each site's weight and biases."""
    return {site.name: [t.detach().clone() for t in (site.parameter, *site.biases)] for site in job.sites}


def put_back(job: Job, weights: Weights, names: Collection[str] | None = None) -> None:
    """Weights and biases of the named sites (all if None) as they were."""
    with torch.no_grad():
        for site in job.sites:
            if names is None or site.name in names:
                for tensor, value in zip((site.parameter, *site.biases), weights[site.name], strict=True):
                    tensor.copy_(value)
