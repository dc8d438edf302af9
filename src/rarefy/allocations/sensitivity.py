"""Sensitivity scan: the zeros that cost the outputs least, by pruning each layer alone at many densities."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Score
from rarefy.core.registry import method
from rarefy.core.site import Site
from rarefy.core.topk import exact_count, keep_top


@method(
    "sensitivity",
    role="allocation",
    source="Han et al. 2015, arXiv:1506.02626, section 4.1; Li et al. 2017, arXiv:1608.08710",
)
@dataclass(frozen=True)
class Sensitivity:
    """Least sum over the sites of the relative squared output error, each pruned alone, within the budget.

    Each site's error is measured at densities from 0.02 to 1 by masking with `score` (None: |w_ij| * sqrt(H_jj));
    zeros are then handed out
    in small steps to whichever site loses least by a weight, on the lower convex hull of its errors, where this
    greedy order is the best there is.
    power: errors count as error^power; 1 adds up relative errors.
    Differs: the papers look at the accuracy of the model for each layer and decide by eye; here it is the layer's
    own output, which needs no loss, and the decision is an optimum.
    """

    score: Score | None = None
    power: float = 1.0
    steps: int = 50

    def __post_init__(self) -> None:
        if self.power <= 0 or self.steps < 2:
            raise SparsityError(f"{self}: needs power > 0 and steps >= 2")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.INPUT_GRAM}) | (self.score.needs if self.score is not None else frozenset())

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
        grid = [1.0 - 0.98 * i / self.steps for i in range(self.steps + 1)]
        curves = {site.name: self.errors(site, grid, evidence[site.name]) for site in sites}
        hulls = {name: _hull(grid, [e**self.power for e in errors]) for name, errors in curves.items()}
        return _spend(sizes, hulls, density)

    def errors(self, site: Site, densities: Sequence[float], evidence: Evidence) -> list[float]:
        """Relative squared output error of the site's masks, `tr(D H D^T) / tr(W H W^T)`, at each density."""
        weight, found = site.read(), []
        parts = [evidence.of_group(i, site.groups) for i in range(site.groups)]
        for density in densities:
            lost = scale = 0.0
            for rows, part in zip(weight.chunk(site.groups), parts, strict=True):
                h = part[Need.INPUT_GRAM].to(rows.dtype)
                wanda = rows.abs() * h.diagonal().clamp_min(0.0).sqrt()
                scores = (wanda if self.score is None else self.score(rows, part)).reshape(1, -1)
                gone = rows * ~keep_top(scores, exact_count(rows.numel(), density)).view(rows.shape)
                lost += float(((gone @ h) * gone).sum())
                scale += float(((rows @ h) * rows).sum())
            found.append(max(0.0, lost / scale) if scale > 0 else 0.0)
        return found


def _hull(grid: Sequence[float], errors: Sequence[float]) -> list[tuple[float, float]]:
    """The lower convex hull of (density, error), from density 1 down."""
    hull: list[tuple[float, float]] = []
    for point in zip(grid, errors, strict=True):
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Error gained per density given up."""
    return (b[1] - a[1]) / (a[0] - b[0])


def _spend(
    sizes: Mapping[str, int], hulls: Mapping[str, Sequence[tuple[float, float]]], density: float
) -> dict[str, float]:
    """Walks down the hulls, cheapest error a weight first, until the budget of zeros is spent exactly."""
    pieces = sorted(
        (_slope(a, b) / sizes[name], name, a[0] - b[0])
        for name, hull in hulls.items()
        for a, b in itertools.pairwise(hull)
    )
    chosen = dict.fromkeys(sizes, 1.0)
    left = (1.0 - density) * sum(sizes.values())
    for _, name, length in pieces:
        cut = min(length, left / sizes[name])
        chosen[name] -= cut
        left -= cut * sizes[name]
    if left > 1e-9 * sum(sizes.values()):  # sparser than the grid: what remains shrinks alike
        share = density * sum(sizes.values()) / sum(sizes[name] * d for name, d in chosen.items())
        chosen = {name: d * share for name, d in chosen.items()}
    return {name: min(1.0, max(0.0, d)) for name, d in chosen.items()}
