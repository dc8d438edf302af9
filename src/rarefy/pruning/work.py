"""The work of one pruning call: densities, evidence, solutions and reports, site by site."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rarefy.allocations.uniform import Uniform
from rarefy.calibration import collect, collect_whole, runner, walk
from rarefy.calibration.blocks import Inputs, Visit
from rarefy.core.evidence import Evidence, Need
from rarefy.core.grid import attach_grid, codes_of
from rarefy.core.joint import JointSolver
from rarefy.core.protocols import Allocation, Search
from rarefy.core.site import Site
from rarefy.core.topk import exact_count
from rarefy.formats.codes import stored_bytes
from rarefy.pruning.job import Job
from rarefy.pruning.joint import one_budget, solve_together, supports_of
from rarefy.pruning.ladder import dealt
from rarefy.pruning.report import SiteReport
from rarefy.pruning.solve import output_error, solve, tell_broken
from rarefy.pruning.trial import Trial


class Work:
    """The state of one call: the job and the reports so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.reports: dict[str, SiteReport] = {}
        self.already: dict[str, int] = {}  # zeros that were there before the call
        joint = isinstance(job.one_shot.solver, JointSolver)
        self.alive = {site.name: site.read() != 0 for site in job.sites} if joint else {}
        self.batches = job.batches  # those of the round
        self.done = 0
        self._whole: dict[str, dict[Need, Tensor]] = {}  # evidence of the whole model as it is now

    def round(self, allocation: Allocation | Search, density: float, step: int, rounds: int) -> None:
        """Round `step` (from 1): looks at the model as it is, then solves every site at that density."""
        job, solver = self.job, self.job.one_shot.solver
        if job.one_shot.dealt:
            self.batches = dealt(job.batches, step, rounds)
        joint = all(one_budget(solver, pattern, allocation) for pattern in job.patterns.values())
        densities = self.densities(Uniform() if joint else allocation, density)
        if isinstance(solver, JointSolver):
            self._together(solver, densities, density if joint else None)
        else:
            self.run(densities)

    def densities(self, allocation: Allocation | Search, density: float) -> dict[str, float]:
        """The density of each site; evidence for it is collected from the model as it is."""
        job, needs = self.job, self.job.one_shot.solver.needs
        needs = needs if isinstance(allocation, Search) else needs | allocation.needs
        self._whole = collect_whole(job.model, job.sites, self.batches, job.loss, needs, job.seed)
        if isinstance(allocation, Search):
            trial = Trial(job, self._whole)
            sizes = {site.name: site.shape[0] * site.shape[1] for site in job.sites}
            return allocation.search(sizes, density, trial.loss_of, job.seed)
        evidence = {site.name: Evidence(site.name, seed=job.seed) for site in job.sites}
        if any(need.of_the_inputs for need in allocation.needs):
            evidence = self._seen(allocation.needs)
        evidence = {name: self._joined(e, self._whole[name]) for name, e in evidence.items()}
        chosen = allocation(job.sites, density, evidence)
        for site in job.sites:  # a density out of range fails here, before anything is written
            exact_count(site.shape[0] * site.shape[1], chosen[site.name])
        return chosen

    def _seen(self, needs: frozenset[Need]) -> dict[str, Evidence]:
        """Evidence of all sites from the model as it is; block by block where the gradients of blocks are wanted."""
        job = self.job
        if Need.REGIONAL_GRADIENT not in needs:
            return collect(job.model, job.sites, self.batches, needs, job.seed, runner(job.loss))
        found: dict[str, Evidence] = {}
        walked = frozenset(need for need in needs if not need.of_the_model)

        def keep(site: Site, evidence: Evidence) -> None:
            found[site.name] = evidence

        walk(job.model, job.sites, self.batches, walked, keep, job.seed, runner(job.loss))
        return found

    def run(self, densities: Mapping[str, float]) -> None:
        """Solves every site in the order of computation; `densities` has looked at the model before."""
        job, needs, whole, visit = self.job, self.job.one_shot.solver.needs, self._whole, self.visitor(densities)
        if job.one_shot.learner is not None:
            assert job.loss is not None, "collect_whole asks for the loss that CHOSEN_MASK takes"
            masks = job.one_shot.learner(job.model, job.sites, job.patterns, self.batches, job.loss, job.seed)
            for name, mask in masks.items():
                whole[name][Need.CHOSEN_MASK] = mask.float()

        walked = frozenset(need for need in needs if not need.of_the_model)
        if walked or job.match is not None:
            after = self.after if job.match is not None else None
            walk(job.model, job.sites, self.batches, walked, visit, job.seed, runner(job.loss), after)
        else:
            for site in job.sites:
                visit(site, Evidence(site.name, seed=job.seed))

    def visitor(self, densities: Mapping[str, float]) -> Visit:
        """What solves one site, reports it and writes it, once its evidence is there."""

        def visit(site: Site, evidence: Evidence) -> None:
            joined = self._joined(evidence, self._whole.get(site.name, {}))
            self._solve(site, densities[site.name], replace(joined, fan_in=site.fan_in))

        return visit

    def _together(self, solver: JointSolver, densities: Mapping[str, float], total: float | None) -> None:
        """Solves all sites in one call; the seconds and what the solver says are of all of them."""
        started, job = time.perf_counter(), self.job
        supports = supports_of(job.sites, job.patterns, densities, self.alive, total)
        evidence = [self._joined(Evidence(site.name, seed=job.seed), self._whole[site.name]) for site in job.sites]
        for site in job.sites:
            self.already.setdefault(site.name, int((site.parameter == 0).count_nonzero()))
        solutions = solve_together(solver, job.sites, supports, evidence)
        seconds = time.perf_counter() - started
        for site, solution in zip(job.sites, solutions, strict=True):
            broken = tell_broken(site.name, solution.mask, job.patterns[site.name], site.groups, job.fit)
            site.write(solution.weight, solution.mask)
            self._report(site, densities[site.name], None, seconds, {**solution.result, **broken})

    def _joined(self, evidence: Evidence, more: Mapping[Need, Tensor]) -> Evidence:
        return Evidence(evidence.site, {**evidence.collected, **more}, evidence.tokens, self.job.seed)

    def _solve(self, site: Site, density: float, evidence: Evidence) -> None:
        started, job = time.perf_counter(), self.job
        weight = site.read()
        self.already.setdefault(site.name, int((weight == 0).count_nonzero()))
        solution = solve(job.one_shot.solver, weight, job.patterns[site.name], density, evidence, site.groups)
        broken = tell_broken(site.name, solution.mask, job.patterns[site.name], site.groups, job.fit)
        site.write(solution.weight, solution.mask)
        attach_grid(site, solution.grid)
        result = {**solution.result, **broken}
        if solution.grid is not None:
            zeroed = int((solution.mask & (solution.weight == 0)).count_nonzero())
            if (
                site.name in self.reports
            ):  # a layer that two blocks share is solved again, its zeros being there by then
                zeroed += self.reports[site.name].result.get("rounded_to_zero", 0)
            stored = stored_bytes(solution.grid.round(solution.weight))
            result |= {"bits": solution.grid.bits, "rounded_to_zero": zeroed, "bytes": stored}
        if solution.shift is not None and not site.shift(solution.shift):
            result["bias"] = "none to repair"
        error = output_error(weight, solution.weight, evidence, site.groups)
        self._report(site, density, error, time.perf_counter() - started, result)

    def _report(self, site: Site, density: float, error: float | None, seconds: float, result: dict[str, Any]) -> None:
        zeros, size = int((site.parameter == 0).count_nonzero()), site.parameter.numel()
        self.reports[site.name] = SiteReport(
            site.name, site.shape, 1.0 - density, zeros, size, self.already[site.name], error, seconds, result
        )
        self.done += 1
        if self.job.progress is not None:
            self.job.progress(site.name, self.done, len(self.job.sites) * self.job.one_shot.rounds)

    def after(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
    ) -> None:
        """Fits a block whose sites were solved to the outputs wanted of it."""
        assert self.job.match is not None
        before, after = self.job.match(block, sites, inputs, wanted, real)
        for site in sites:
            known = self.reports[site.name]
            result = {**known.result, "block_error": after, "block_error_unrepaired": before}
            self.reports[site.name] = self._looked_at_again(site, result)

    def finished(self, said: Mapping[str, float]) -> None:
        """Takes in what the last stage says, of the whole model, and what it left of each layer."""
        for site in self.job.sites:
            self.reports[site.name] = self._looked_at_again(site, {**self.reports[site.name].result, **said})

    def _looked_at_again(self, site: Site, result: dict[str, Any]) -> SiteReport:
        """The report of a layer whose weights have moved since."""
        known, zeros = self.reports[site.name], int((site.parameter == 0).count_nonzero())
        codes = codes_of(site.module)
        if "rounded_to_zero" in known.result:
            asked = known.zeros - known.result["rounded_to_zero"]
            result |= {"rounded_to_zero": zeros - asked}
        if codes is not None:
            result |= {"bytes": stored_bytes(codes)}
        return replace(known, result=result, zeros=zeros)
