"""A method's solver that remembers what it was shown, so that layers can be solved again without the data."""

from dataclasses import dataclass, field, replace

import torch

from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.shapes import Weight
from rarefy.core.site import Site
from rarefy.pruning import SiteReport
from rarefy.pruning.solve import output_error, solve

_MOST_BYTES = 2 << 30  # of evidence that is kept


@dataclass(eq=False)
class Remembering:
    """Solves as `solver` does. seen: by site, the pattern and evidence of each call (one a group of a convolution)."""

    solver: Solver
    seen: dict[str, list[tuple[Pattern, Evidence]]] = field(default_factory=dict)
    nbytes: int = 0

    @property
    def needs(self) -> frozenset[Need]:
        return self.solver.needs

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        self.nbytes += sum(value.nbytes for value in evidence.collected.values())
        if self.nbytes <= _MOST_BYTES:
            self.seen.setdefault(evidence.site, []).append((pattern, evidence))
        return self.solver(weight, pattern, density, evidence)

    def knows(self, site: Site) -> bool:
        """Whether the site can be solved again: it was solved once, and all that the solver saw was kept."""
        return len(self.seen.get(site.name, ())) == site.groups

    def again(self, site: Site, density: float, report: SiteReport) -> SiteReport:
        """Solves the site, whose weight and biases were put back, at another density, on what it saw the first time.

        Differs from a new pass in what later layers are calibrated on: layers before them as they were then.
        """
        pieces, known = site.read().chunk(site.groups), self.seen[site.name]
        parts = [solve(self.solver, w, p, density, e, 1) for w, (p, e) in zip(pieces, known, strict=True)]
        errors = [output_error(w, s.weight, e, 1) for w, s, (_, e) in zip(pieces, parts, known, strict=True)]
        site.write(torch.cat([part.weight for part in parts]), torch.cat([part.mask for part in parts]))
        shifts = [part.shift for part in parts if part.shift is not None]
        if shifts:
            site.shift(torch.cat(shifts))
        zeros = int((site.parameter == 0).count_nonzero())
        error = errors[0] if site.groups == 1 else None  # of groups that are apart there is no common scale left
        return replace(report, asked=1.0 - density, zeros=zeros, error=error, result=parts[0].result)
