"""Trying an allocation: the model pruned so, looked at, and put back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rarefy.calibration import collect, runner
from rarefy.calibration.batches import inference
from rarefy.calibration.regional import first_tensor
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Solution
from rarefy.core.topk import exact_count
from rarefy.pruning.job import Job
from rarefy.pruning.solve import solve

_ROOM = 2 << 30  # bytes of solutions that are kept


class Trial:
    """Solves sites from evidence of the dense model, collected once; solutions are kept while there is room.

    The loss is the mean of the user's over the batches; without one, the relative squared change of the model's output.
    """

    def __init__(self, job: Job, whole: Mapping[str, Mapping[Need, Tensor]]) -> None:
        self.job = job
        needs = job.one_shot.solver.needs
        found = {site.name: Evidence(site.name, seed=job.seed) for site in job.sites}
        if any(need.of_the_inputs for need in needs):
            found = collect(job.model, job.sites, job.batches, needs, job.seed, runner(job.loss))
        self.evidence = {
            name: Evidence(name, {**e.collected, **whole[name]}, e.tokens, job.seed) for name, e in found.items()
        }
        self.dense = {site.name: site.parameter.detach().clone() for site in job.sites}
        self.weights = {site.name: site.read() for site in job.sites}
        self.known: dict[tuple[str, int], Solution] = {}
        self.room = _ROOM
        self.wanted = [] if job.loss is not None else [self._output(i) for i in range(len(job.batches))]

    def loss_of(self, densities: Mapping[str, float]) -> float:
        """The loss of the model pruned to these densities; its weights are as before after."""
        try:
            for site in self.job.sites:
                solution = self._solved(site.name, densities[site.name])
                site.write(solution.weight, solution.mask)
            return self._loss()
        finally:
            with torch.no_grad():
                for site in self.job.sites:
                    site.parameter.copy_(self.dense[site.name])

    def _solved(self, name: str, density: float) -> Solution:
        job, weight = self.job, self.weights[name]
        key = (name, exact_count(weight.numel(), density))
        if key not in self.known:
            site = next(site for site in job.sites if site.name == name)
            found = solve(job.one_shot.solver, weight, job.patterns[name], density, self.evidence[name], site.groups)
            self.room -= weight.numel() * 5
            if self.room < 0:
                return found
            self.known[key] = found
        return self.known[key]

    def _output(self, index: int) -> Tensor:
        with inference(self.job.model):
            output: Any = runner(None)(self.job.model, self.job.batches[index], index)
            return first_tensor(output).float()

    def _loss(self) -> float:
        job = self.job
        if job.loss is not None:
            with inference(job.model):
                return sum(float(job.loss(job.model, batch)) for batch in job.batches) / len(job.batches)
        off = sum(float((self._output(i) - y).square().sum()) for i, y in enumerate(self.wanted))
        return off / max(1e-30, sum(float(y.square().sum()) for y in self.wanted))
