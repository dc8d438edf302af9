"""Running a solver on one site, group by group where a convolution has groups, and checking what came back."""

import torch

from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.grid import Grid
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.shapes import Mask, Weight


def solve(
    solver: Solver, weight: Weight, pattern: Pattern, density: float, evidence: Evidence, groups: int
) -> Solution:
    """One solution of the site; each group of rows of a grouped convolution has its own inputs and is solved alone."""
    if groups == 1:
        return _solved(solver, weight, pattern, density, evidence)
    parts = [
        _solved(solver, rows, pattern, density, evidence.of_group(i, groups))
        for i, rows in enumerate(weight.chunk(groups))
    ]
    masks = torch.cat([part.mask for part in parts])
    shifts = [part.shift for part in parts if part.shift is not None]
    shift = torch.cat(shifts) if len(shifts) == len(parts) else None
    grids = [part.grid for part in parts if part.grid is not None]
    grid = Grid(torch.cat([g.scale for g in grids]), grids[0].bits) if len(grids) == len(parts) else None
    return Solution(torch.cat([part.weight for part in parts]), masks, parts[0].result, shift, grid)


def _solved(solver: Solver, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
    """What the solver says, unless it is not finite, keeps more than asked, leaves the pattern or revives a zero.

    Where zeros were there before, fewer entries may be left and a tile of the pattern may be broken by them.
    """
    solution, site = solver(weight, pattern, density, evidence), evidence.site
    if not solution.weight.isfinite().all():
        raise SolverError(f"{site}: the solver returned NaN or infinity; raise the damping or give more data")
    gone = weight == 0
    if bool((solution.mask & gone).any()):
        raise SolverError(f"{site}: the solver brought back weights that were zero already")
    kept, asked = int(solution.mask.count_nonzero()), pattern.count(weight.shape[0], weight.shape[1], density)
    if kept > asked or (kept < asked and not gone.any()):
        raise SolverError(f"{site}: the solver kept {kept} weights, but {asked} were asked; use pattern.select")
    if not gone.any() and not pattern.allows(solution.mask):
        raise SolverError(f"{site}: the solver left the pattern {pattern}; use pattern.select")
    return solution


def tell_broken(site: str, mask: Mask, pattern: Pattern, groups: int, fit: bool) -> dict[str, str]:
    """What the report says of a pattern that zeros from before have holes in; an error if they are to fit it."""
    if all(pattern.allows(part) for part in mask.chunk(groups)):
        return {}
    if fit:
        raise SparsityError(
            f"{site}: has zeros already that do not fit {pattern}; give zeros='keep' to have them as holes in it, "
            "prune with an unstructured pattern, or start from the dense model"
        )
    return {"holes": f"zeros from before inside what {pattern} keeps"}


def output_error(before: Weight, after: Weight, evidence: Evidence, groups: int) -> float | None:
    """tr(D H D^T) / tr(W H W^T) with D = W - V and the Gram H of the inputs; None without a Gram."""
    if Need.INPUT_GRAM not in evidence:
        return None
    gram = evidence[Need.INPUT_GRAM]
    change, scale = 0.0, 0.0
    for i, (w, v) in enumerate(zip(before.chunk(groups), after.chunk(groups), strict=True)):
        h = (gram[i] if groups > 1 else gram).to(w.dtype)
        difference = w - v
        change += float(((difference @ h) * difference).sum())
        scale += float(((w @ h) * w).sum())
    return change / scale if scale > 0 else 0.0
