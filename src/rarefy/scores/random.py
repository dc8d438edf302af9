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
        seed = zlib.crc32(f"{evidence.seed} {evidence.site}".encode())  # torch's generator takes 32 bits only
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
