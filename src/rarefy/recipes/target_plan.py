"""Which densities take the asked time, found with copies that are pruned by magnitude: quick, and about as fast."""

from dataclasses import dataclass, replace
from typing import NoReturn

import torch

from rarefy.core.errors import SparsityError
from rarefy.core.site import Site
from rarefy.recipes.target_curve import Curve
from rarefy.recipes.target_job import LEAST_DENSITY, Job, densities_of, layers_ms
from rarefy.recipes.target_search import Allocate, Densities, LeastLoss
from rarefy.recipes.target_times import LayerTimes, Speed, trial

CLOSE = 0.02  # the feedback stops when the measured speed-up is this near to the asked one
_ROUGH = 0.06  # how near a quick allocation comes before the layers' weights are searched
_TRIALS = 6


@dataclass(frozen=True)
class Plan:
    """densities: that were measured at `speed`; trials: copies compiled so far."""

    densities: Densities
    speed: Speed
    trials: int


class Search:
    """Tries allocations until the whole model takes what it should.

    Times are against the first measurement of the dense model, so that a drift of the machine changes nothing.
    """

    def __init__(self, job: Job, allocate: Allocate, times: LayerTimes) -> None:
        self.job, self.allocate, self.times = job, allocate, times
        self.dense = job.speed(job.model, job.model, job.inputs)
        self.wanted = self.dense.dense_ms / job.target
        if job.target <= self.dense.ratio:
            self._refuse_easy()
        whole = self.layers(dict.fromkeys((site.name for site in job.sites), 1.0))
        self.start = (whole, self.dense.dense_ms / self.dense.ratio)
        self.curve = Curve([self.start])
        self.fastest: Densities = {site.name: self._fastest(site) for site in job.sites}
        self.trials = 0

    def layers(self, densities: Densities) -> float:
        """Milliseconds of the layers alone."""
        return layers_ms(self.job, self.times, densities)

    def whole(self, speed: Speed) -> float:
        """Milliseconds of the model at a measured speed-up."""
        return self.dense.dense_ms / speed.ratio

    def _fastest(self, site: Site) -> float:
        return min(reversed(densities_of(self.job.pattern)), key=lambda d: self.times(site, d))

    def run(self) -> Plan:
        """First the curve with a quick allocation, then the allocation that was asked for."""
        if isinstance(self.allocate, LeastLoss):
            self._approach(self.allocate.plain, _ROUGH)
        return self._approach(self.allocate, CLOSE)

    def _approach(self, allocate: Allocate, close: float) -> Plan:
        best: Plan | None = None
        for _ in range(_TRIALS):
            densities = allocate(self.curve.layers_for(self.wanted))
            plan = self._try(self.fastest if densities is None else densities)
            if best is None or self.job.off(plan.speed) < self.job.off(best.speed):
                best = plan
            if self.job.off(best.speed) <= close:
                break
            if densities is None and plan.speed.ratio < self.job.target * (1 - CLOSE):
                self.refuse_hard(plan.speed)
        assert best is not None
        return replace(best, trials=self.trials)

    def _try(self, densities: Densities) -> Plan:
        job = self.job
        self.trials += 1
        speed = trial(job.model, job.sites, densities, job.pattern, job.ignore, job.inputs, job.speed)
        self.curve.add(self.layers(densities), self.whole(speed))
        return Plan(densities, speed, self.trials)

    def _refuse_easy(self) -> NoReturn:
        raise SparsityError(
            f"target_speedup: {self.job.target:g}x needs no zeros here: rarefy.compile alone makes the dense model "
            f"{self.dense.ratio:.2f}x faster; ask for more, or just compile"
        )

    def refuse_hard(self, speed: Speed) -> NoReturn:
        """Says what is the best reachable."""
        raise SparsityError(
            f"target_speedup: {self.job.target:g}x cannot be reached here: with {1 - LEAST_DENSITY:.0%} zeros in each "
            f"layer that gains from them the model is {speed.ratio:.2f}x faster, the best reachable with "
            f"{torch.get_num_threads()} threads at these inputs; ask for less, or give larger inputs; nothing changed"
        )
