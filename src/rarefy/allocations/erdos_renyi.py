"""Erdos-Renyi: small layers keep a larger share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.allocations.budget import spread
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.site import Site


@dataclass(frozen=True)
class ErdosRenyi:
    """Density of a site proportional to (sum of its dimensions) / (product of its dimensions).

    kernel: whether the kernel's height and width count as dimensions (ERK) or only in and out (ER).
    last_dense: whether the last site stays dense, and the others pay for it (ERK+, Liu et al. 2022,
    arXiv:2202.02643, section 3.1); an error where the budget is smaller than that site.
    """

    kernel: bool = True
    last_dense: bool = False
    needs: ClassVar[frozenset[Need]] = frozenset()

    def _share(self, site: Site) -> float:
        dimensions = site.parameter.shape if self.kernel else site.parameter.shape[:2]
        product = 1.0
        for size in dimensions:
            product *= size
        return sum(dimensions) / product

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
        shares = {site.name: self._share(site) for site in sites}
        if not self.last_dense or len(sites) < 2:
            return spread(sizes, shares, density)
        last, total = sites[-1].name, sum(sizes.values())
        left = density * total - sizes.pop(last)
        if left <= 0:
            raise SparsityError(
                f"{last}: ERK+ keeps the last layer dense, but it alone has {total * density - left:.0f} weights and "
                f"density {density:g} of the model is {density * total:.0f}; ask for less sparsity or use plain ERK"
            )
        return spread(sizes, shares, left / sum(sizes.values())) | {last: 1.0}


@method("erk", role="allocation", source="Evci et al. 2020 (RigL), arXiv:1911.11134, section 3 (1)")
def erdos_renyi_kernel() -> ErdosRenyi:
    """Erdos-Renyi-Kernel: density of a site grows as (in + out + kh + kw) / (in * out * kh * kw)."""
    return ErdosRenyi(kernel=True)


@method("er", role="allocation", source="Mocanu et al. 2018 (SET), arXiv:1707.04780, eq. 3")
def erdos_renyi() -> ErdosRenyi:
    """Erdos-Renyi: density of a site grows as (in + out) / (in * out)."""
    return ErdosRenyi(kernel=False)
