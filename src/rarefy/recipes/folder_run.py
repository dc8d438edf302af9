"""One process at work on a streamed pruning: weights in, sites solved, weights out, unit by unit."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, as_call, call_model, inference
from rarefy.calibration.blocks import Inputs, Walk
from rarefy.calibration.boundaries import Boundaries
from rarefy.calibration.chain import Probe, candidates, probe
from rarefy.calibration.resident import Resident
from rarefy.calibration.streamed import StreamedWalk, Unit, units_of
from rarefy.core.errors import ModelError, SolverError
from rarefy.core.evidence import Evidence
from rarefy.core.site import Site
from rarefy.pruning.work import Work
from rarefy.recipes.folder_report import peak_rss, site_dict, site_report
from rarefy.recipes.folder_target import Target
from rarefy.recipes.skeleton import Skeleton

_PROBED = 32  # tokens of one row: enough to show how the model is put together


class Run:
    """The state of one process: the model without its weights, the target, the pruning work."""

    def __init__(self, bare: Skeleton, target: Target, work: Work, dtype: torch.dtype) -> None:
        self.bare, self.target, self.work = bare, target, work
        self.resident = Resident(
            bare.model,
            lambda name: target.read(bare.stored[name][0]),
            lambda name: target.mapped(bare.stored[name][0]),
            dtype,
        )
        self.names = {id(module): name for name, module in bare.model.named_modules()}
        self.since = time.perf_counter()
        for reports in target.journal.units.values():
            work.reports.update({said["name"]: site_report(said) for said in reports})
        work.done = len(work.reports)

    def everything(self, densities: Mapping[str, float], walks: bool) -> None:
        """Every unit that is not done yet. walks: whether data have to run through the model."""
        visitor = self.work.visitor(densities)

        def visit(site: Site, evidence: Evidence) -> None:
            visitor(site, evidence)
            self._round(site)

        if walks:
            self._walk(visit)
            return
        for site in self.work.job.sites:
            if site.name not in self.target.journal.units:
                with self.resident.loaded(*site.modules):
                    visit(site, Evidence(site.name, seed=self.work.job.seed))
                    self._commit(Unit(site.name, "before", (site,)))

    def _walk(self, visit: Any) -> None:
        job, shown = self.work.job, self._shown()
        after = self._after if job.match is not None else None
        asked = Walk(job.model, job.sites, job.batches, job.one_shot.solver.needs, visit, job.seed, call_model, after)
        units = units_of(job.model, job.sites, shown)
        walk = StreamedWalk(asked, shown, self.resident, Boundaries(self.target.work / "hidden"))
        walk.run(units, lambda unit: unit.name in self.target.journal.units, self._commit)

    def _after(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
    ) -> None:
        self.work.after(block, sites, inputs, wanted, real)
        for site in sites:
            self._round(site)

    def _shown(self) -> Probe:
        """The chain of blocks and the order of the sites; found once, by a few tokens run through the whole model."""
        journal, model, sites = self.target.journal, self.bare.model, self.work.job.sites
        if journal.layout is None:
            with inference(model), self.resident.on_call(candidates(model, sites), blocks=True):
                shown = probe(model, sites, _trimmed(self.work.job.batches[0]), call_model)
            if not shown.chain:
                raise ModelError(
                    f"{type(model).__name__}: its blocks do not form a chain, each fed with the output of the one "
                    "before and otherwise with the same; load the model and use rarefy.prune"
                )
            names = [self.names[id(block)] for block in shown.chain]
            journal.layout = {"order": list(shown.order), "chain": names, "parts": shown.parts}
            self.target.save()
        said = journal.layout
        chain = tuple(model.get_submodule(name) for name in said["chain"])
        return Probe(tuple(said["order"]), chain, said["parts"])

    def _stored(self, site: Site) -> list[tuple[str, Tensor]]:
        """(parameter's name, its values in memory) of a site's weight and biases."""
        found = [(f"{self.names[id(site.module)]}.weight", site.parameter)]
        for module in site.modules:
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter) and not bias.is_meta:
                found.append((f"{self.names[id(module)]}.bias", bias))
        return found

    def _round(self, site: Site) -> None:
        """What later layers see is what is stored; the report counts that."""
        with torch.no_grad():
            for name, value in self._stored(site):
                stored = self.target.source.dtype(self.bare.stored[name][0])
                value.copy_(value.to(stored))
                if not value.isfinite().all():
                    raise SolverError(f"{name}: what was solved does not fit into {stored}; raise the damping")
        report = self.work.reports[site.name]
        self.work.reports[site.name] = replace(report, zeros=int((site.parameter == 0).count_nonzero()))

    def _commit(self, unit: Unit) -> None:
        journal = self.target.journal
        values = {s: value for site in unit.sites for name, value in self._stored(site) for s in self.bare.stored[name]}
        now = time.perf_counter()
        journal.seconds, self.since = journal.seconds + now - self.since, now
        journal.peak_rss = max(journal.peak_rss, peak_rss())
        self.target.commit(unit.name, values, [site_dict(self.work.reports[site.name]) for site in unit.sites])


def _trimmed(batch: Batch) -> Batch:
    """One row of a batch, and of whole numbers (tokens, masks) the first few only."""

    def trim(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return value[:1] if value.is_floating_point() or value.dim() != 2 else value[:1, :_PROBED]

    args, kwargs = as_call(batch)
    return {name: trim(value) for name, value in kwargs.items()} if kwargs else tuple(trim(value) for value in args)
