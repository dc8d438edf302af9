"""Balanced: every layer keeps the same number of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.allocations.budget import spread
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.site import Site


@method("balanced", role="allocation", source="Gadhikar et al. 2023, arXiv:2210.02412, section 3")
@dataclass(frozen=True)
class Balanced:
    """Every site keeps equally many weights; sites that have fewer stay dense, and the others share what they leave.

    Differs: the authors' code caps such layers and keeps fewer weights in all; here the budget is met.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
        return spread(sizes, {name: 1.0 / size for name, size in sizes.items()}, density)
