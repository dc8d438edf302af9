"""Solving all sites at once, where the solver decides over all of them together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rarefy.allocations.ranked import Global
from rarefy.core.errors import SolverError
from rarefy.core.evidence import Evidence
from rarefy.core.joint import JointSolver, SiteSupport, Supports
from rarefy.core.protocols import Allocation, Pattern, Search, Solution, Solver
from rarefy.core.site import Site
from rarefy.core.topk import exact_count
from rarefy.patterns.unstructured import Layerwise


def one_budget(solver: Solver, pattern: Pattern, allocation: Allocation | Search) -> bool:
    """Whether all weights of the model compete in the solver itself: no allocation has to come before it."""
    return isinstance(solver, JointSolver) and isinstance(allocation, Global) and isinstance(pattern, Layerwise)


def supports_of(
    sites: Sequence[Site],
    patterns: Mapping[str, Pattern],
    densities: Mapping[str, float],
    alive: Mapping[str, Tensor],
    total: float | None,
) -> Supports:
    """What the sites may keep. alive: (out, in) a site, what was not zero when the call began; total: the density of
    one budget over all, None where each site has its own."""
    parts = tuple(SiteSupport(s.name, patterns[s.name], densities[s.name], alive[s.name], s.groups) for s in sites)
    budget = None if total is None else exact_count(sum(part.size for part in parts), total)
    return Supports(parts, budget)


def solve_together(
    solver: JointSolver, sites: Sequence[Site], supports: Supports, evidence: Sequence[Evidence]
) -> list[Solution]:
    """One solution a site, checked: finite, as many as asked, on the pattern, nothing revived that was zero."""
    weight = torch.cat([site.read().reshape(-1) for site in sites])
    found = solver.together(weight, supports, evidence)
    if not found.weight.isfinite().all():
        raise SolverError("the solver returned NaN or infinity; raise the damping or give more data")
    if bool((found.mask & ~supports.alive).any()):
        raise SolverError("the solver brought back weights that were zero already")
    if supports.total is not None:
        _check_count("all layers", found.mask, supports.total, supports.alive)
    masks = supports.split(found.mask)
    for part, mask in zip(supports.sites, masks, strict=True):
        if supports.total is None:
            rows = mask.shape[0] // part.groups
            asked = part.groups * part.pattern.count(rows, mask.shape[1], part.density)
            _check_count(part.name, mask, asked, part.alive)
            if bool(part.alive.all()) and not all(part.pattern.allows(m) for m in mask.chunk(part.groups)):
                raise SolverError(f"{part.name}: the solver left the pattern {part.pattern}; use supports.select")
    weights = supports.split(found.weight)
    return [Solution(w, m, found.result) for w, m in zip(weights, masks, strict=True)]


def _check_count(where: str, mask: Tensor, asked: int, alive: Tensor) -> None:
    kept = int(mask.count_nonzero())
    if kept > asked or (kept < asked and bool(alive.all())):
        raise SolverError(f"{where}: the solver kept {kept} weights, but {asked} were asked; use supports.select")
