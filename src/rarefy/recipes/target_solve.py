"""The loop around the method: solve, measure, correct the budget, until the pruned model is as fast as was asked."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rarefy.pruning import PruneReport
from rarefy.recipes.target_curve import Curve
from rarefy.recipes.target_evidence import Remembering
from rarefy.recipes.target_job import Job
from rarefy.recipes.target_plan import Plan, Search
from rarefy.recipes.target_search import Densities
from rarefy.recipes.target_times import Speed, pruned_as

ALLOWED = 0.05  # a result further off than this has missed
_ENOUGH = 0.03  # where corrections stop: the rest of what is allowed is for the next measurement's noise
_SOLVES = 8


@dataclass(frozen=True)
class Round:
    """One solved model: the milliseconds that its layers were given, and what was measured."""

    layers_ms: float
    speedup: float


@dataclass(frozen=True)
class Solved:
    """The model that came nearest, and every round on the way to it."""

    report: PruneReport
    speed: Speed
    rounds: tuple[Round, ...]

    @property
    def correction(self) -> float:
        """The layers' milliseconds of the best round over those of the first."""
        best = min(self.rounds, key=lambda r: abs(r.speedup - self.speed.ratio))
        return best.layers_ms / self.rounds[0].layers_ms


def solve_to_speed(job: Job, plan: Plan, search: Search, batches: Sequence[Any], **options: Any) -> Solved:
    """Runs the method at the plan's densities and corrects the budget by what is measured, weights from the dense ones.

    Layers whose density changes are solved again on the evidence of the first pass (`Remembering`). The nearest result
    stays in the model; the budget moves by regula falsi, and by the slope of the trials while all results lie on one
    side. Raises SparsityError with the best reachable where the sparsest layers are too slow.
    """
    work = _Work(job, batches, options)
    curve, tried, rounds = Curve([], search.curve.slope()), [plan.densities], []
    try:
        while True:
            report = work.solve(tried[-1])
            speed = job.speed(job.model, work.dense, job.inputs)
            rounds.append(Round(search.layers(tried[-1]), speed.ratio))
            curve.add(rounds[-1].layers_ms, search.whole(speed))
            work.keep_nearest(report, speed)
            if job.off(speed) <= _ENOUGH or len(rounds) == _SOLVES:
                break
            again = search.allocate(curve.layers_for(search.wanted)) or search.fastest
            if again in tried:
                break
            tried.append(again)
        report, speed = work.nearest()
        if tried[-1] == search.fastest and speed.ratio < job.target * (1 - ALLOWED):
            search.refuse_hard(speed)
    except BaseException:
        put_back(job, work.before)
        raise
    if job.off(speed) > ALLOWED:
        _warn_missed(job, speed, len(rounds))
    return Solved(report, speed, tuple(rounds))


def _warn_missed(job: Job, speed: Speed, rounds: int) -> None:
    why = (
        "the machine is busy or its speed drifts: let nothing else run and prune again"
        if rounds == _SOLVES
        else "no choice of these layers and this pattern comes nearer"
    )
    warnings.warn(
        f"target_speedup: {speed.ratio:.2f}x was measured after {rounds} rounds, {job.target:g}x was asked; {why}",
        stacklevel=5,
    )


class _Work:
    """The model being pruned again and again from the same dense weights."""

    def __init__(self, job: Job, batches: Sequence[Any], options: dict[str, Any]) -> None:
        self.job, self.batches, self.options = job, batches, options
        self.before = [site.parameter.detach().clone() for site in job.sites]
        self.dense = copy.deepcopy(job.model)
        self._solver = Remembering(job.one_shot.solver)
        self._last: tuple[Densities, PruneReport] | None = None
        self._best: tuple[PruneReport, Speed, list[Tensor]] | None = None

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
        changed = [(s, w) for s, w in zip(job.sites, self.before, strict=True) if densities[s.name] != before[s.name]]
        if any(densities[s.name] < 1.0 and not (s.name in rows and self._solver.knows(s)) for s, _ in changed):
            return None
        skipped = dict(report.skipped)
        for site, weight in changed:
            with torch.no_grad():
                site.parameter.copy_(weight)
            row = rows.pop(site.name, None)
            if densities[site.name] < 1.0 and row is not None:
                rows[site.name] = self._solver.again(site, job.pattern, densities[site.name], row)
            else:
                skipped[site.name] = "ignored as asked"
        order = [site.name for site in job.sites if site.name in rows]
        return replace(report, sites=tuple(rows[name] for name in order), skipped=skipped)

    def keep_nearest(self, report: PruneReport, speed: Speed) -> None:
        if self._best is None or self.job.off(speed) < self.job.off(self._best[1]):
            self._best = report, speed, [site.parameter.detach().clone() for site in self.job.sites]

    def nearest(self) -> tuple[PruneReport, Speed]:
        """Puts the best result into the model."""
        assert self._best is not None
        report, speed, weights = self._best
        put_back(self.job, weights)
        return report, speed


def put_back(job: Job, weights: Sequence[Tensor]) -> None:
    """The sites' weights as they were."""
    with torch.no_grad():
        for site, weight in zip(job.sites, weights, strict=True):
            site.parameter.copy_(weight)
