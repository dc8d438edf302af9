"""Erdos-Renyi: small layers keep a larger share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.allocations.budget import spread
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.site import Site


@dataclass(frozen=True)
class ErdosRenyi:
    """Density of a site proportional to (sum of its dimensions) / (product of its dimensions).

    kernel: whether the kernel's height and width count as dimensions (ERK) or only in and out (ER).
    """

    kernel: bool = True
    needs: ClassVar[frozenset[Need]] = frozenset()

    def _share(self, site: Site) -> float:
        dimensions = site.parameter.shape if self.kernel else site.parameter.shape[:2]
        product = 1.0
        for size in dimensions:
            product *= size
        return sum(dimensions) / product

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
        return spread(sizes, {site.name: self._share(site) for site in sites}, density)


@method("erk", role="allocation", source="Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (1)")
def erdos_renyi_kernel() -> ErdosRenyi:
    """Erdos-Renyi-Kernel: density of a site grows as (in + out + kh + kw) / (in * out * kh * kw)."""
    return ErdosRenyi(kernel=True)


@method("er", role="allocation", source="Mocanu et al. 2018 (SET), arXiv:1707.04780, eq. 3")
def erdos_renyi() -> ErdosRenyi:
    """Erdos-Renyi: density of a site grows as (in + out) / (in * out)."""
    return ErdosRenyi(kernel=False)
