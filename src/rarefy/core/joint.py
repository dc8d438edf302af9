"""All sites of a model at once: what they may keep together, and the solver that decides over all of them."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.topk import exact_count, keep_top


@dataclass(frozen=True)
class SiteSupport:
    """What one site may keep. alive: (out, in), False where a weight was zero from the start and stays so."""

    name: str
    pattern: Pattern
    density: float
    alive: Tensor
    groups: int = 1

    @property
    def size(self) -> int:
        return self.alive.numel()

    def select(self, scores: Tensor) -> Tensor:
        """The pattern's choice among the living, (out, in); each group of a grouped convolution chooses for itself."""
        parts = zip(scores.chunk(self.groups), self.alive.chunk(self.groups), strict=True)
        return torch.cat([self.pattern.select(s.masked_fill(~a, -math.inf), self.density) & a for s, a in parts])


@dataclass(frozen=True)
class Supports:
    """The supports of all sites, their weights laid out one after the other in one vector of p entries.

    total: how many entries all sites keep together, whichever they are; None: each site has its own density.
    """

    sites: tuple[SiteSupport, ...]
    total: int | None = None

    @property
    def sizes(self) -> list[int]:
        return [site.size for site in self.sites]

    @property
    def alive(self) -> Tensor:
        """(p,) bool."""
        return torch.cat([site.alive.reshape(-1) for site in self.sites])

    def split(self, vector: Tensor) -> list[Tensor]:
        """The part of each site, (out, in), of a vector (p,)."""
        parts = zip(vector.split(self.sizes), self.sites, strict=True)
        return [part.reshape(site.alive.shape) for part, site in parts]

    def select(self, scores: Tensor) -> Tensor:
        """The best allowed mask (p,) by scores (p,); what was zero from the start comes last and never comes back."""
        if self.total is not None:
            alive = self.alive
            return keep_top(scores.masked_fill(~alive, -math.inf)[None], self.total)[0] & alive
        parts = zip(self.sites, self.split(scores), strict=True)
        return torch.cat([site.select(part).reshape(-1) for site, part in parts])

    def nearest(self, vector: Tensor) -> Tensor:
        """The mask of the allowed vector nearest to `vector` (p,): the one that keeps the largest sum of squares."""
        return self.select(vector.double().square())

    def looser(self, part: float) -> "Supports":
        """As these, but only `part` (0 to 1) of the way from density 1, geometrically.

        A pattern with one density only (N:M) has no looser one and stays.
        """
        if self.total is not None:
            size = sum(self.sizes)
            return replace(self, total=max(self.total, exact_count(size, (self.total / size) ** part)))
        loose = [s if s.pattern.span is not None else replace(s, density=s.density**part) for s in self.sites]
        return replace(self, sites=tuple(loose))


@dataclass(frozen=True)
class JointSolution:
    """What a joint solver made of all matrices as one vector: weight (p,), mask (p,) bool, and what it has to say."""

    weight: Tensor
    mask: Tensor
    result: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class JointSolver(Solver, Protocol):
    """A solver that can make all matrices sparse at once, so that they share one budget and one objective."""

    @abstractmethod
    def together(self, weight: Tensor, supports: Supports, evidence: Sequence[Evidence]) -> JointSolution:
        """weight: the weights of all sites as one vector (p,), in the order of `supports.sites` and of `evidence`."""


def alone(solver: JointSolver, weight: Tensor, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
    """What a joint solver makes of one matrix (out, in) by itself."""
    supports = Supports((SiteSupport(evidence.site, pattern, density, weight != 0),))
    found = solver.together(weight.reshape(-1), supports, [evidence])
    return Solution(found.weight.reshape(weight.shape), found.mask.reshape(weight.shape), found.result)
