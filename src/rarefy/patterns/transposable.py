"""Transposable N:M: the mask and its transpose both have N of every M, so that backward passes are fast too."""

from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.patterns.divide import require_tiles
from rarefy.patterns.grouped_nm import finite
from rarefy.patterns.nm import NM

_EXACT = 4  # tiles up to this size are solved by looking at every mask: 90 of 2:4


@method(
    "transposable",
    role="pattern",
    source="Hubara et al. 2021, arXiv:2102.08124, section 4; Meng et al. 2025 (TSENOR), arXiv:2505.23949, section 3",
)
@dataclass(frozen=True)
class Transposable:
    """In every m x m tile, each row and each column keeps exactly n (written "t2:4").

    The best mask of a tile maximises its kept score under these row and column sums: an assignment problem. Tiles up
    to 4 x 4 take the best of all masks. Larger ones take entries greedily, largest first, mend what is left open by
    alternating exchanges, then swap pairs while a swap keeps more: at least half of the best, as any such greedy
    choice, and within a few percent in practice.
    Differs: the papers solve a flow problem, or an entropy-regularised one before rounding; this is rounding and local
    search alone, on all tiles at once.

    >>> import torch
    >>> Transposable(1, 2).select(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), density=0.5).int()
    tensor([[1, 0],
            [0, 1]], dtype=torch.int32)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m <= 32:
            raise SparsityError(f"Transposable({self.n}, {self.m}): needs 0 < n < m <= 32, for example (2, 4)")

    def __str__(self) -> str:
        return f"t{self.n}:{self.m}"

    @property
    def granularity(self) -> tuple[int, int]:
        return (self.m, self.m)

    @property
    def span(self) -> int | None:
        return self.m

    @property
    def density(self) -> float:
        """The only density that the pattern has."""
        return self.n / self.m

    def _tiles(self, values: Tensor) -> Tensor:
        """(tiles, m, m), tiles row by row."""
        rows, columns = values.shape
        require_tiles(self, self.granularity, rows, columns)
        return values.reshape(rows // self.m, self.m, columns // self.m, self.m).transpose(1, 2).flatten(0, 1)

    def select(self, scores: Scores, density: float) -> RowMask:
        rows, columns = scores.shape
        tiles = self._tiles(finite(scores))
        NM(self.n, self.m).require_density(rows * columns, density)
        if scores.isnan().any():
            raise DataError(f"{self}: the scores hold NaN; check the weights and the data for NaN")
        if self.m <= _EXACT:
            ways = transposable_ways(self.n, self.m).double().flatten(1)
            kept = ways[(tiles.flatten(1) @ ways.T).argmax(1)].bool().view(tiles.shape)
        else:
            kept = improve(tiles, greedy(tiles, self.n))
        grid = kept.view(rows // self.m, columns // self.m, self.m, self.m)
        return grid.transpose(1, 2).reshape(rows, columns).to(scores.device)

    def allows(self, mask: RowMask) -> bool:
        tiles = self._tiles(mask)
        return bool((tiles.sum(1) <= self.n).all() and (tiles.sum(2) <= self.n).all())

    def count(self, rows: int, n: int, density: float) -> int:
        require_tiles(self, self.granularity, rows, n)
        NM(self.n, self.m).require_density(rows * n, density)
        return rows * n // self.m * self.n


@cache
def transposable_ways(n: int, m: int) -> Tensor:
    """Every mask (ways, m, m) whose rows and columns all keep n, low indices first."""
    rows = [tuple(int(j in kept) for j in range(m)) for kept in combinations(range(m), n)]
    found = [way for way in product(rows, repeat=m) if all(sum(row[j] for row in way) == n for j in range(m))]
    return torch.tensor(found, dtype=torch.bool)


def greedy(tiles: Tensor, n: int) -> Tensor:
    """Masks (tiles, m, m) with n a row and a column: largest scores first, then open rows are mended.

    A row and a column may both be one short while their own entry is taken. Then for some other row r and column c
    with (r, c) kept, exchanging (r, c) for (row, c) and (r, column) fills both; the best such pair is taken.
    """
    count, m, _ = tiles.shape
    kept = torch.zeros(count, m * m, dtype=torch.bool)
    order = tiles.flatten(1).argsort(dim=1, descending=True, stable=True)
    row_left, column_left = torch.full((count, m), n), torch.full((count, m), n)
    every = torch.arange(count)
    for step in range(m * m):
        at = order[:, step]
        i, j = at // m, at % m
        take = (row_left[every, i] > 0) & (column_left[every, j] > 0)
        kept[every, at] = take
        row_left[every, i] -= take.long()
        column_left[every, j] -= take.long()
    kept = kept.view(count, m, m)
    while len(short := (row_left.sum(1) > 0).nonzero().flatten()):  # one place fewer in each at every turn
        _mend(tiles, kept, row_left, column_left, short)
    return kept


def _mend(tiles: Tensor, kept: Tensor, row_left: Tensor, column_left: Tensor, short: Tensor) -> None:
    """One exchange in each tile of `short`: fills one place of an open row and of an open column, in place."""
    i, j = row_left[short].argmax(1), column_left[short].argmax(1)
    t, k = tiles[short], kept[short]
    count, m, _ = t.shape
    every = torch.arange(count)
    gain = t[every, i][:, None, :] + t[every, :, j][:, :, None] - t  # [r][c]: add (i, c) and (r, j), drop (r, c)
    free = k & ~k[every, i][:, None, :] & ~k[every, :, j][:, :, None]
    best = gain.masked_fill(~free, -torch.inf).flatten(1).argmax(1)
    r, c = best // m, best % m
    kept[short, r, c] = False
    kept[short, i, c] = True
    kept[short, r, j] = True
    row_left[short, i] -= 1
    column_left[short, j] -= 1


def improve(tiles: Tensor, kept: Tensor) -> Tensor:
    """Exchanges (a, c), (b, d) for (a, d), (b, c), the best of each tile first, while that keeps more."""
    count, m, _ = tiles.shape
    pairs = torch.combinations(torch.arange(m), 2)
    a, b = pairs[:, 0], pairs[:, 1]
    every = torch.arange(count)
    while True:  # each exchange keeps more, so none comes back
        difference = tiles[:, a] - tiles[:, b]  # (tiles, pairs, m)
        only_a, only_b = kept[:, a] & ~kept[:, b], kept[:, b] & ~kept[:, a]
        loss, c = difference.masked_fill(~only_a, torch.inf).min(2)  # moving column c from a to b costs this
        gain, d = difference.masked_fill(~only_b, -torch.inf).max(2)
        best, pair = (gain - loss).max(1)
        swap = best > 1e-12 * tiles.abs().amax((1, 2))
        if not swap.any():
            return kept
        at, p = every[swap], pair[swap]
        columns = (c[at, p], d[at, p])
        kept[at, a[p], columns[0]], kept[at, b[p], columns[0]] = False, True
        kept[at, b[p], columns[1]], kept[at, a[p], columns[1]] = False, True
