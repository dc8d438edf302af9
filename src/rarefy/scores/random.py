"""Random numbers: the floor under every score."""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from rarefy.core.evidence import Evidence, Need
from rarefy.core.registry import method
from rarefy.core.shapes import Weight


@method("random", role="score", source="Gale et al. 2019, arXiv:1902.09574 (random baseline)")
@dataclass(frozen=True)
class Random:
    """Uniform in [0, 1), drawn from the call's seed and the site's name, so independent of the site order."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, weight: Weight, evidence: Evidence) -> Weight:
        seed = (evidence.seed << 32) ^ zlib.crc32(evidence.site.encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
