"""ECoFLaP: layers on which the loss depends more keep more, measured by forward passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.allocations.budget import spread_above
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.site import Site


@method("ecoflap", role="allocation", source="Sung et al. 2023 (ECoFLaP), arXiv:2310.02998, section 3.2 and eq. 4")
@dataclass(frozen=True)
class ECoFLaP:
    """Every site first keeps 1 - limit of its weights, then the rest of the budget in proportion to I, capped.

    I = mean |L(W + eps z) - L(W - eps z)| / (2 eps), see `calibration.zeroth_order`: no backward pass.
    limit: the largest sparsity of a site, 0.6 to 0.8 in the paper; where more sparsity than that is asked of the
    whole, half-way between it and 1.
    Differs: the paper's code rounds up and repairs; here the densities meet the budget exactly.
    """

    limit: float = 0.8
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ZEROTH_ORDER})

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise SparsityError(f"{self}: the largest sparsity of a site lies between 0 and 1, 0.8 for example")

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
        shares = {site.name: float(evidence[site.name][Need.ZEROTH_ORDER]) / sizes[site.name] for site in sites}
        least = 1.0 - self.limit if density >= 1.0 - self.limit else density / 2
        if sum(shares.values()) <= 0:  # the loss moves with no layer: nothing to tell them apart by
            return dict.fromkeys(sizes, density)
        return spread_above(sizes, shares, density, least)
