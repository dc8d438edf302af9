"""Grouped N:M: every one of the ways to keep N of M is used equally often, so that kernels need no index per value."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.core.topk import exact_count
from rarefy.patterns.divide import require_tiles

_MOST_WAYS = 256  # 4:8 has 70; beyond, tables grow and chunks outgrow layers


@method("sten", role="pattern", source="Ivanov et al. 2023 (STen), arXiv:2304.07613, section 5 (n:m:g)")
@dataclass(frozen=True)
class GroupedNM:
    """N:M in chunks of C(m, n) g groups that use each of the C(m, n) ways g times (written "2:4:8").

    Chosen greedily, best (group, way) first, then groups swap ways while any swap keeps more.
    Differs: the original's registries fall back to dense with a warning for a combination that is not registered;
    here a layer without a fitting kernel stays dense in `rarefy.compile`, `explain()` says why, and a kernel named
    for a weight that it cannot hold raises. Swaps are taken one a chunk, the best first.

    >>> import torch
    >>> GroupedNM(1, 2, 1).select(torch.tensor([[3.0, 1.0, 9.0, 2.0]]), density=0.5).int()
    tensor([[0, 1, 1, 0]], dtype=torch.int32)
    """

    n: int
    m: int
    g: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m or self.g < 1:
            raise SparsityError(
                f"GroupedNM({self.n}, {self.m}, {self.g}): needs 0 < n < m and g >= 1, for example GroupedNM(2, 4, 8)"
            )
        if self.ways > _MOST_WAYS:
            raise SparsityError(
                f"{self}: has {self.ways} ways to keep {self.n} of {self.m}; choose at most {_MOST_WAYS}"
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}:{self.g}"

    @property
    def ways(self) -> int:
        return comb(self.m, self.n)

    @property
    def granularity(self) -> tuple[int, int]:
        return (1, self.m * self.ways * self.g)

    @property
    def span(self) -> int | None:
        return self.m * self.ways * self.g

    @property
    def density(self) -> float:
        """The only density that the pattern has."""
        return self.n / self.m

    def _require(self, rows: int, columns: int, density: float) -> None:
        require_tiles(self, self.granularity, rows, columns)
        if exact_count(rows * columns, density) != exact_count(rows * columns, self.density):
            raise SparsityError(
                f"{self}: keeps {self.density:g} of the weights, but density {density:g} was asked; "
                "leave sparsity out, or choose another pattern"
            )

    def select(self, scores: Scores, density: float) -> RowMask:
        rows, columns = scores.shape
        self._require(rows, columns, density)
        if scores.isnan().any():
            raise DataError(f"{self}: the scores hold NaN; check the weights and the data for NaN")
        ways = all_ways(self.n, self.m)
        groups = finite(scores).reshape(-1, self.ways * self.g, self.m)
        tables = (part @ ways.double().T for part in groups.split(4096))
        picked = torch.cat([_improve(table, _greedy(table, self.g)) for table in tables])
        return ways[picked.reshape(-1)].reshape(rows, columns).to(scores.device)

    def allows(self, mask: RowMask) -> bool:
        require_tiles(self, self.granularity, *mask.shape)
        groups = mask.reshape(-1, self.ways * self.g, 1, self.m)
        used = (groups == all_ways(self.n, self.m).to(mask.device)).all(3).sum(1)
        return bool((used == self.g).all())

    def count(self, rows: int, n: int, density: float) -> int:
        self._require(rows, n, density)
        return rows * n // self.m * self.n


def all_ways(n: int, m: int) -> Tensor:
    """Every mask (ways, m) with n of m kept, in the order in which kernels take them."""
    ways = torch.zeros(comb(m, n), m, dtype=torch.bool)
    for way, kept in enumerate(combinations(range(m), n)):
        ways[way, list(kept)] = True
    return ways


def finite(scores: Tensor) -> Tensor:
    """In float64, with minus infinity below every other sum of a group, plus infinity above: the range of the scores
    and 1, times the columns, beyond the least and the largest of them (0, where none is finite)."""
    wide = scores.double()
    known = wide[wide.isfinite()]
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    margin = (high - low + 1.0) * scores.shape[1]
    return wide.clamp(low - margin, high + margin)


def _greedy(table: Tensor, g: int) -> Tensor:
    """table (chunks, groups, ways): the way of each group, the best free pair first, each way g times."""
    chunks, groups, ways = table.shape
    free, left = table.clone(), torch.full((chunks, ways), g)
    way_of, every = torch.zeros(chunks, groups, dtype=torch.long), torch.arange(chunks)
    for _ in range(groups):
        best = free.flatten(1).argmax(1)
        group, way = best // ways, best % ways
        way_of[every, group] = way
        left[every, way] -= 1
        free[every, group] = -torch.inf
        free.transpose(1, 2)[left == 0] = -torch.inf
    return way_of


def _improve(table: Tensor, way_of: Tensor) -> Tensor:
    """Swaps the ways of two groups of a chunk, the best pair first, until no swap keeps more."""
    chunks, groups, _ = table.shape
    every = torch.arange(chunks)
    while True:  # each swap keeps more, so none comes back
        after = table.gather(2, way_of[:, None, :].expand(-1, groups, -1))  # [i][j]: group i with the way of j
        now = after.diagonal(dim1=1, dim2=2)
        gain = after + after.transpose(1, 2) - now[:, :, None] - now[:, None, :]
        best, pair = gain.flatten(1).max(1)
        swap = best > 1e-12 * table.abs().amax((1, 2))
        if not swap.any():
            return way_of
        i, j, at = pair[swap] // groups, pair[swap] % groups, every[swap]
        way_of[at, i], way_of[at, j] = way_of[at, j], way_of[at, i]
