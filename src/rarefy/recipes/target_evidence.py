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
    """Solves as `solver` does. seen: by site, the evidence of each call (one a group of a convolution)."""

    solver: Solver
    seen: dict[str, list[Evidence]] = field(default_factory=dict)
    nbytes: int = 0

    @property
    def needs(self) -> frozenset[Need]:
        return self.solver.needs

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        self.nbytes += sum(value.nbytes for value in evidence.collected.values())
        if self.nbytes <= _MOST_BYTES:
            self.seen.setdefault(evidence.site, []).append(evidence)
        return self.solver(weight, pattern, density, evidence)

    def knows(self, site: Site) -> bool:
        """Whether the site can be solved again."""
        return len(self.seen.get(site.name, ())) == site.groups

    def again(self, site: Site, pattern: Pattern, density: float, report: SiteReport) -> SiteReport:
        """Solves the site, whose weights were put back, at another density, on what the layer saw the first time.

        Differs from a new pass in what later layers are calibrated on: layers before them as they were then.
        """
        weight, known = site.read(), self.seen[site.name]
        rows = list(zip(weight.chunk(site.groups), known, strict=True))
        parts = [solve(self.solver, w, pattern, density, evidence, 1) for w, evidence in rows]
        after, mask = torch.cat([part.weight for part in parts]), torch.cat([part.mask for part in parts])
        errors = [output_error(w, part.weight, e, 1) for (w, e), part in zip(rows, parts, strict=True)]
        site.write(after, mask)
        zeros = int((site.parameter == 0).sum())
        error = errors[0] if site.groups == 1 else None  # of groups that are apart there is no common scale left
        return replace(report, asked=1.0 - density, zeros=zeros, error=error, result=parts[0].result)
