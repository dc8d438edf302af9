"""Global: all weights of the model compete in one ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Score
from rarefy.core.registry import method
from rarefy.core.site import Site
from rarefy.core.topk import exact_count, keep_top


@method("global", role="allocation", source="Frankle and Carbin 2019, arXiv:1803.03635; Blalock et al. 2020")
@dataclass(frozen=True)
class Global:
    """One ranking of every weight by `score`; a site's density is the share of it that survives.

    score: what to rank by. `None` takes the score of the method in use (the pruning door fills it in).
    The total is exact: the densities of the sites times their sizes add up to the asked count.
    """

    score: Score | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs if self.score is not None else frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        if self.score is None:
            raise SparsityError(
                "Global: no score to rank the weights by; give one, for example Global(score=Magnitude())"
            )
        scores = [self.score(site.read(), evidence[site.name]).reshape(-1) for site in sites]
        ranked = torch.cat(scores)
        kept = keep_top(ranked[None], exact_count(ranked.numel(), density))[0]
        parts = kept.split([s.numel() for s in scores])
        return {site.name: int(p.sum()) / p.numel() for site, p in zip(sites, parts, strict=True)}
