"""Blocks with more outliers keep more."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.site import Site


def _block(name: str) -> str:
    """The path up to the first number: `encoder.layer.3.output.dense` lies in block `encoder.layer.3`."""
    match = re.match(r"(.*?\.?\d+)(\.|$)", name)
    return match[1] if match else name


@method("owl", role="allocation", source="Yin et al. 2023 (OWL), arXiv:2310.05175, section 3.2")
@dataclass(frozen=True)
class OWL:
    """Outlier weighed layer-wise sparsity: density within +-limit of the asked one, by share of outliers.

    A = |W| * ||X||, D = share of entries of A above `factor` times its mean, per transformer block. Densities
    rise linearly with D over a range of 2 * limit, then shift so that the budget is met.
    factor: the paper's M (3, 5, 7 or 10 there); limit: its lambda (0.08 for 70 % zeros).
    Differs: the shift uses the weights' mean over all weights, not over blocks, so that the budget is exact for
    blocks of unequal size; where that would leave [0, 1] the whole range is narrowed until it fits; sites outside
    any numbered block are blocks of their own.
    """

    factor: float = 5.0
    limit: float = 0.08
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_SQNORM})

    def __post_init__(self) -> None:
        if self.factor <= 0 or not 0 <= self.limit <= 0.5:
            raise SparsityError(f"{self}: needs factor > 0 and a limit in [0, 0.5]")

    def _outliers(self, site: Site, evidence: Evidence) -> tuple[int, int]:
        parts = enumerate(site.read().chunk(site.groups))
        score = torch.cat([r.abs() * evidence.of_group(i, site.groups)[Need.INPUT_SQNORM].sqrt() for i, r in parts])
        return int((score > self.factor * score.mean()).sum()), score.numel()

    def _ratios(self, sites: Sequence[Site], evidence: Mapping[str, Evidence]) -> dict[str, float]:
        """Share of outliers of the block of each site."""
        counts: dict[str, tuple[int, int]] = {}
        for site in sites:
            outliers, size = self._outliers(site, evidence[site.name])
            before = counts.get(_block(site.name), (0, 0))
            counts[_block(site.name)] = (before[0] + outliers, before[1] + size)
        return {site.name: counts[_block(site.name)][0] / counts[_block(site.name)][1] for site in sites}

    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]:
        ratios = self._ratios(sites, evidence)
        low, high = min(ratios.values()), max(ratios.values())
        if high == low:
            return dict.fromkeys(ratios, density)
        sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
        rank = {name: (ratio - low) / (high - low) for name, ratio in ratios.items()}  # 0 to 1
        mean = sum(sizes[name] * value for name, value in rank.items()) / sum(sizes.values())
        width = min(2 * self.limit, density / mean, (1.0 - density) / (1.0 - mean))  # 0 < mean < 1
        return {name: min(1.0, max(0.0, density + width * (value - mean))) for name, value in rank.items()}
