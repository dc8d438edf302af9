"""Blocks of r x c entries are kept or dropped together."""

import math
from dataclasses import dataclass

import torch

from rarefy.core.errors import ShapeError
from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.divide import require_tiles


@method("block", role="pattern", source="Narang et al. 2017, arXiv:1711.02782, section 3.1")
@dataclass(frozen=True)
class Block:
    """Blocks of `r` rows x `c` columns (written "block:4x1"); a block counts by the sum of its scores.

    An entry scored minus infinity (a weight that is already gone) adds nothing; a block of nothing but such
    entries comes last.

    >>> import torch
    >>> Block(2, 1).select(torch.tensor([[1.0, 5.0], [1.0, 0.0]]), density=0.5).int()
    tensor([[0, 1],
            [0, 1]], dtype=torch.int32)
    """

    r: int
    c: int

    def __post_init__(self) -> None:
        if self.r < 1 or self.c < 1:
            raise ShapeError(f"Block({self.r}, {self.c}): both sides must be at least 1, for example Block(4, 1)")

    def __str__(self) -> str:
        return f"block:{self.r}x{self.c}"

    @property
    def granularity(self) -> tuple[int, int]:
        return (self.r, self.c)

    @property
    def span(self) -> int | None:
        return None

    def _tiles(self, values: torch.Tensor) -> torch.Tensor:
        """View `(rows / r, r, columns / c, c)`."""
        rows, columns = values.shape
        require_tiles(self, self.granularity, rows, columns)
        return values.reshape(rows // self.r, self.r, columns // self.c, self.c)

    def pooled(self, scores: Scores) -> torch.Tensor:
        """What each block counts by, `(rows / r, columns / c)`."""
        tiles = self._tiles(scores)
        gone = tiles == -math.inf
        return tiles.masked_fill(gone, 0.0).sum(dim=(1, 3)).masked_fill(gone.all(3).all(1), -math.inf)

    def best(self, pooled: torch.Tensor, density: float) -> torch.Tensor:
        """Which blocks are kept, in their shape."""
        return keep_top(pooled.reshape(1, -1), exact_count(pooled.numel(), density)).reshape(pooled.shape)

    def spread(self, kept: torch.Tensor) -> RowMask:
        """The mask of the entries from that of the blocks."""
        rows, columns = kept.shape
        tiles = kept[:, None, :, None].expand(rows, self.r, columns, self.c)
        return tiles.reshape(rows * self.r, columns * self.c)

    def select(self, scores: Scores, density: float) -> RowMask:
        return self.spread(self.best(self.pooled(scores), density))

    def allows(self, mask: RowMask) -> bool:
        tiles = self._tiles(mask)
        return bool((tiles.any(3).any(1) == tiles.all(3).all(1)).all())

    def count(self, rows: int, n: int, density: float) -> int:
        require_tiles(self, self.granularity, rows, n)
        return self.r * self.c * exact_count((rows // self.r) * (n // self.c), density)
