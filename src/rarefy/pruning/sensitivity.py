"""What a method does to each layer at several densities: the errors that a budget is spread by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rarefy.calibration import collect_whole, runner, walk
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.shapes import Weight
from rarefy.core.site import Site
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.solve import output_error, solve

Errors = dict[str, dict[float, float]]
Seen = Callable[[Site, float, Weight, Solution], None]


def layer_errors(
    model: nn.Module,
    one_shot: OneShot,
    pattern: Pattern,
    sites: Sequence[Site],
    batches: Sequence[Any],
    densities: Sequence[float],
    *,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
    seen: Seen | None = None,
) -> Errors:
    """{site: {density: relative squared error of its output}} when each layer alone is solved; the model stays dense.

    The error is `sum |X W^T - X V^T|^2 / sum |X W^T|^2` on the batches; without batches that of the weights,
    `|W - V|^2 / |W|^2`. seen: called with (site, density, weight before, solution) for each.
    """
    needs = one_shot.solver.needs | (frozenset({Need.INPUT_GRAM}) if batches else frozenset())
    whole = collect_whole(model, sites, batches, loss, needs, seed)
    found: Errors = {}

    def visit(site: Site, evidence: Evidence) -> None:
        full = Evidence(site.name, {**evidence.collected, **whole[site.name]}, evidence.tokens, seed)
        found[site.name] = {d: _error(one_shot, pattern, site, d, full, seen) for d in densities}

    walked = frozenset(need for need in needs if not need.of_the_model)
    if walked:
        walk(model, sites, batches, walked, visit, seed, runner(loss))
    else:
        for site in sites:
            visit(site, Evidence(site.name, seed=seed))
    return found


def _error(
    one_shot: OneShot, pattern: Pattern, site: Site, density: float, evidence: Evidence, seen: Seen | None
) -> float:
    weight = site.read()
    solution = solve(one_shot.solver, weight, pattern, density, evidence, site.groups)
    if seen is not None:
        seen(site, density, weight, solution)
    error = output_error(weight, solution.weight, evidence, site.groups)
    return _weight_error(weight, solution.weight) if error is None else error


def _weight_error(before: Weight, after: Weight) -> float:
    scale = float(before.square().sum())
    return float((before - after).square().sum()) / scale if scale else 0.0


def interpolated(errors: Mapping[float, float], density: float) -> float:
    """The error at a density between those solved: straight in the logarithm of the error, and towards density 1, where
    it vanishes, as the square of what is missing; beyond the sparsest solved density the sparsest one's."""
    known = sorted(errors)
    if density >= known[-1]:
        missing = (1.0 - density) / (1.0 - known[-1]) if known[-1] < 1.0 else 0.0
        return errors[known[-1]] * missing**2
    if density <= known[0]:
        return errors[known[0]]
    above = next(d for d in known if d >= density)
    below = known[known.index(above) - 1]
    share = (density - below) / (above - below)
    low, high = max(errors[below], 1e-30), max(errors[above], 1e-30)
    return float(low ** (1.0 - share) * high**share)
