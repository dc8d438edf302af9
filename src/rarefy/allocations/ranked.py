"""Global: all weights of the model compete in one ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    empties: whether a site may end with nothing, else each keeps its best weight at least, and the others pay for it.
    The total is exact: the densities of the sites times their sizes add up to the asked count.
    """

    score: Score | None = None
    empties: bool = True

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs if self.score is not None else frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        if self.score is None:
            raise SparsityError(
                "Global: no score to rank the weights by; give one, for example Global(score=Magnitude())"
            )
        scores = [self._ranks(site, evidence[site.name]) for site in sites]
        ranked = torch.cat(scores)
        count = exact_count(ranked.numel(), density)
        kept = keep_top(ranked[None], count if self.empties else max(count, len(sites)))[0]
        parts = kept.split([s.numel() for s in scores])
        return {site.name: int(p.sum()) / p.numel() for site, p in zip(sites, parts, strict=True)}

    def _ranks(self, site: Site, evidence: Evidence) -> Tensor:
        """The scores of a site, flat; weights that are zero already come last, also where scores are negative."""
        assert self.score is not None
        weight = site.read()
        parts = [
            self.score(rows, evidence.of_group(i, site.groups)) for i, rows in enumerate(weight.chunk(site.groups))
        ]
        ranks = torch.cat(parts).masked_fill(weight == 0, -torch.inf).reshape(-1)
        return ranks if self.empties else _with_best_first(ranks)


def _with_best_first(ranks: Tensor) -> Tensor:
    if ranks.numel() and bool(ranks.max() > -torch.inf):
        ranks[ranks.argmax()] = torch.inf
    return ranks
