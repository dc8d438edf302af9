"""N:M on a width that M does not divide: the last group is filled up with entries that do not exist."""

from dataclasses import dataclass

import torch.nn.functional as F

from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.core.topk import keep_top
from rarefy.patterns.nm import NM


@method("padded-nm", role="pattern", source="Mishra et al. 2021, arXiv:2104.08378, section 3 (N:M)")
@dataclass(frozen=True)
class PaddedNM:
    """At most n of every m consecutive entries of a row, the last group being as short as it comes (written "2:4+").

    A group of r < m entries keeps min(n, r) of them, so the density is n / m or a little more.

    >>> import torch
    >>> PaddedNM(2, 4).select(torch.tensor([[1.0, -3.0, 2.0, 0.0, 5.0]]), density=0.5).int()
    tensor([[1, 0, 1, 0, 1]], dtype=torch.int32)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        NM(self.n, self.m)  # the same numbers make sense

    def __str__(self) -> str:
        return f"{self.n}:{self.m}+"

    @property
    def granularity(self) -> tuple[int, int]:
        return (1, 1)

    @property
    def span(self) -> int | None:
        return self.m

    @property
    def density(self) -> float:
        """The density of whole groups."""
        return self.n / self.m

    def select(self, scores: Scores, density: float) -> RowMask:
        rows, columns = scores.shape
        NM(self.n, self.m).require_density(rows * self.m, density)
        rest = columns % self.m
        whole = keep_top(scores[:, : columns - rest].reshape(-1, self.m), self.n).reshape(rows, columns - rest)
        last = keep_top(scores[:, columns - rest :], min(self.n, rest))
        return F.pad(whole, (0, rest)) | F.pad(last, (columns - rest, 0))

    def allows(self, mask: RowMask) -> bool:
        padded = F.pad(mask, (0, -mask.shape[1] % self.m))
        return bool((padded.reshape(-1, self.m).sum(1) <= self.n).all())

    def count(self, rows: int, n: int, density: float) -> int:
        NM(self.n, self.m).require_density(rows * self.m, density)
        return rows * (n // self.m * self.n + min(self.n, n % self.m))
