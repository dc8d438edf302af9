"""A solver of its own for each layer."""

from collections.abc import Mapping
from dataclasses import dataclass

from rarefy.core.errors import SolverError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.shapes import Weight


@dataclass(frozen=True)
class Assorted:
    """solvers: by the name of the site. A site without one is an error."""

    solvers: Mapping[str, Solver]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(solver.needs for solver in self.solvers.values()))

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        if evidence.site not in self.solvers:
            raise SolverError(f"Assorted: no solver for {evidence.site}; it has those of {sorted(self.solvers)[:3]}...")
        return self.solvers[evidence.site](weight, pattern, density, evidence)
