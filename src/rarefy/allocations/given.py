"""Densities that were decided elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site


@dataclass(frozen=True)
class Given:
    """Each site the density that `densities` has for its name, whatever the overall one."""

    densities: Mapping[str, float]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        absent = [site.name for site in sites if site.name not in self.densities]
        if absent:
            raise SparsityError(f"Given: no density for {absent[:3]}; give one for every site, or ignore= them")
        return {site.name: self.densities[site.name] for site in sites}
