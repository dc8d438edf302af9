"""The one-shot door: in place, all or nothing, with a report."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration import as_batches, collect, collect_gradients, runner, walk
from rarefy.core.errors import ShapeError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Allocation, Pattern, Solution
from rarefy.core.site import Site, find_sites
from rarefy.core.topk import exact_count
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.report import PruneReport, SiteReport
from rarefy.pruning.resolve import name_of, resolve_allocation, resolve_density, resolve_method, resolve_pattern
from rarefy.pruning.solve import output_error, solve

Progress = Callable[[str, int, int], None]  # (site, how many are done, how many there are)


def prune(
    model: nn.Module,
    method: str | OneShot,
    *,
    sparsity: float | None = None,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | None = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> PruneReport:
    """Prunes the linear and convolutional layers of `model` in place and reports what it did.

    method: a registered name (`rarefy methods`) or a OneShot; options: the method's own (e.g. damping=0.1).
    sparsity: fraction of zeros over the pruned layers, in [0, 1); N:M patterns fix it.
    pattern: "unstructured" | "layerwise" | "rowwise" | "fanin" | "2:4" | "block:4x1" | an object.
    allocation: "uniform" | "erk" | "er" | "global" | "owl" | an object.
    data: batches of model inputs (a tensor, a tuple, or a dict of keyword arguments each); with `loss`, whatever
    `loss(model, batch)` understands. ignore: names, shell patterns, prefixes or "re:..." of layers left alone.
    seed: of anything random. progress: called after each layer.

    Zeros that are there already stay and count. On any error the model is put back as it was.
    """
    started = time.perf_counter()
    name, one_shot = resolve_method(method, options)
    support = resolve_pattern(pattern, one_shot.pattern)
    spread = resolve_allocation(allocation, one_shot)
    density = resolve_density(sparsity, support, spread)
    needs = one_shot.solver.needs
    batches = as_batches(data, method=name, needed=bool(needs | spread.needs))
    sites, ignored = find_sites(model, ignore)
    _check_sites(sites, support)
    with _all_or_nothing(sites):
        work = _Work(model, sites, batches, loss, seed, one_shot, support, progress)
        work.run(work.densities(spread, density))
    skipped = dict.fromkeys(ignored, "ignored as asked")
    return PruneReport(
        name, name_of(support), name_of(spread), tuple(work.reports), skipped, time.perf_counter() - started
    )


def _check_sites(sites: Sequence[Site], pattern: Pattern) -> None:
    """Every weight finite and divisible by the pattern's tile, before anything is touched."""
    for site in sites:
        site.read()
        rows, n = site.shape
        rows //= site.groups
        tile = pattern.granularity
        if rows % tile[0] or n % tile[1]:
            raise ShapeError(
                f"{site.name}: {pattern} needs multiples of {tile[0]} x {tile[1]}, but the weight is "
                f"{rows} x {n}{' a group' if site.groups > 1 else ''}; leave it alone with ignore=[{site.name!r}] "
                "or choose another pattern"
            )


@contextmanager
def _all_or_nothing(sites: Sequence[Site]) -> Iterator[None]:
    """Puts every weight back if anything goes wrong inside."""
    before = [site.parameter.detach().clone() for site in sites]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for site, weight in zip(sites, before, strict=True):
                site.parameter.copy_(weight)
        raise


class _Work:
    """The state of one call: what is being pruned with what, and the reports so far."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        batches: Sequence[Any],
        loss: Callable[[nn.Module, Any], Tensor] | None,
        seed: int,
        one_shot: OneShot,
        pattern: Pattern,
        progress: Progress | None,
    ) -> None:
        self.model, self.sites, self.batches, self.loss, self.seed = model, sites, batches, loss, seed
        self.one_shot, self.pattern, self.progress = one_shot, pattern, progress
        self.reports: list[SiteReport] = []

    def densities(self, allocation: Allocation, density: float) -> dict[str, float]:
        """The density of each site; evidence for it is collected from the dense model."""
        evidence = {site.name: Evidence(site.name, seed=self.seed) for site in self.sites}
        if allocation.needs:
            evidence = self._with_gradients(
                collect(self.model, self.sites, self.batches, allocation.needs, self.seed, runner(self.loss)),
                allocation.needs,
            )
        chosen = allocation(self.sites, density, evidence)
        for site in self.sites:  # a density out of range fails here, before anything is written
            exact_count(site.shape[0] * site.shape[1], chosen[site.name])
        return chosen

    def _with_gradients(self, evidence: dict[str, Evidence], needs: frozenset[Need]) -> dict[str, Evidence]:
        gradients = collect_gradients(self.model, self.sites, self.batches, self.loss, needs)
        return {
            name: Evidence(name, {**found.collected, **gradients[name]}, found.tokens, found.seed)
            for name, found in evidence.items()
        }

    def run(self, densities: Mapping[str, float]) -> None:
        """Solves every site in the order of computation."""
        needs = self.one_shot.solver.needs
        gradients = collect_gradients(self.model, self.sites, self.batches, self.loss, needs)

        def visit(site: Site, evidence: Evidence) -> None:
            full = Evidence(site.name, {**evidence.collected, **gradients[site.name]}, evidence.tokens, self.seed)
            self._solve(site, densities[site.name], full)

        if any(not need.wants_loss for need in needs):
            walk(self.model, self.sites, self.batches, needs, visit, self.seed, runner(self.loss))
        else:
            for site in self.sites:
                visit(site, Evidence(site.name, seed=self.seed))

    def _solve(self, site: Site, density: float, evidence: Evidence) -> None:
        started = time.perf_counter()
        weight = site.read()
        solution: Solution = solve(self.one_shot.solver, weight, self.pattern, density, evidence, site.groups)
        site.write(solution.weight, solution.mask)
        zeros = int((site.parameter == 0).sum())
        error = output_error(weight, solution.weight, evidence, site.groups)
        self.reports.append(
            SiteReport(
                site.name,
                site.shape,
                1.0 - density,
                zeros,
                weight.numel(),
                int((weight == 0).sum()),
                error,
                time.perf_counter() - started,
                solution.result,
            )
        )
        if self.progress is not None:
            self.progress(site.name, len(self.reports), len(self.sites))
