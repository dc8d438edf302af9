"""Pyramidal: the deeper the layer, the sparser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site


@dataclass(frozen=True)
class Pyramidal:
    """Density `p^l` in layer l = 1, 2, ..., p such that the total is met; in the order in which the sites are given.

    It is not in the index by name, because densities of everything there depend on no order.
    Source: Gadhikar et al. 2023, arXiv:2210.02412, section 3.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        sizes = [site.shape[0] * site.shape[1] for site in sites]
        p = base_of(sizes, density)
        return {site.name: p ** (depth + 1) for depth, site in enumerate(sites)}


def base_of(sizes: Sequence[int], density: float) -> float:
    """The p in [0, 1] with `sum(size_l p^l) = density * sum(size_l)`, by halving.

    >>> round(base_of([100, 100], 0.375), 6)
    0.5
    """
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2.0
        total = sum(size * middle ** (depth + 1) for depth, size in enumerate(sizes))
        low, high = (middle, high) if total < density * sum(sizes) else (low, middle)
    return high
