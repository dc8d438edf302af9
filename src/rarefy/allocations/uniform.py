"""The same density everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.site import Site


@method("uniform", role="allocation", source="Zhu and Gupta 2017, arXiv:1710.01878")
@dataclass(frozen=True)
class Uniform:
    """Every site gets the asked density."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        return {site.name: density for site in sites}
