"""Running a solver on one site, group by group where a convolution has groups, and checking what came back."""

import torch

from rarefy.core.errors import SolverError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.shapes import Weight


def solve(
    solver: Solver, weight: Weight, pattern: Pattern, density: float, evidence: Evidence, groups: int
) -> Solution:
    """One solution of the site; each group of rows of a grouped convolution has its own inputs and is solved alone."""
    if groups == 1:
        return _checked(solver(weight, pattern, density, evidence), weight, pattern, evidence.site)
    parts = [
        _checked(solver(rows, pattern, density, _of_group(evidence, i, groups)), rows, pattern, evidence.site)
        for i, rows in enumerate(weight.chunk(groups))
    ]
    masks = torch.cat([part.mask for part in parts])
    return Solution(torch.cat([part.weight for part in parts]), masks, parts[0].result)


def _of_group(evidence: Evidence, index: int, groups: int) -> Evidence:
    """Input evidence has a leading axis of groups; gradients `(out, in)` are cut by rows."""
    values = {k: v.chunk(groups)[index] if k.wants_loss else v[index] for k, v in evidence.collected.items()}
    return Evidence(evidence.site, values, evidence.tokens, evidence.seed + index)


def _checked(solution: Solution, weight: Weight, pattern: Pattern, site: str) -> Solution:
    """Refuses a solution that is not finite, revives a zero, or leaves the pattern."""
    if not solution.weight.isfinite().all():
        raise SolverError(f"{site}: the solver returned NaN or infinity; raise the damping or give more data")
    if bool((solution.mask & (weight == 0)).any()):
        raise SolverError(f"{site}: the solver brought back weights that were zero already")
    return solution


def output_error(before: Weight, after: Weight, evidence: Evidence, groups: int) -> float | None:
    """tr(D H D^T) / tr(W H W^T) with D = W - V and the Gram H of the inputs; None without a Gram."""
    if Need.INPUT_GRAM not in evidence:
        return None
    gram = evidence[Need.INPUT_GRAM]
    change, scale = 0.0, 0.0
    for i, (w, v) in enumerate(zip(before.chunk(groups), after.chunk(groups), strict=True)):
        h = gram[i] if groups > 1 else gram
        difference = w - v
        change += float(((difference @ h) * difference).sum())
        scale += float(((w @ h) * w).sum())
    return change / scale if scale > 0 else 0.0
