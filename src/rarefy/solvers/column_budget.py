"""How an exact count is spread over blocks of columns that are pruned one after the other."""

from torch import Tensor

from rarefy.core.protocols import Pattern
from rarefy.core.shapes import Int, Weight


def _living(weight: Weight, tile: tuple[int, int]) -> Int[Tensor, "n"]:
    """For each column, how many entries lie in tiles of the pattern that are not wholly zero yet."""
    rows, n = weight.shape
    tiles = weight.ne(0).reshape(rows // tile[0], tile[0], n // tile[1], tile[1]).any(3).any(1)
    return tiles.sum(0).repeat_interleave(tile[1]) * tile[0]


class ColumnBudget:
    """Spreads the exact count over the blocks of columns, in proportion to the weights that are still there."""

    def __init__(self, weight: Weight, pattern: Pattern, density: float) -> None:
        self.pattern, self.rows = pattern, weight.shape[0]
        self.left = pattern.count(self.rows, weight.shape[1], density)
        self.fixed = density if pattern.span is not None else None
        self.alive = None if self.fixed is not None else _living(weight, pattern.granularity)

    def share(self, start: int, end: int) -> float:
        """The density of the columns [start, end); called once a block, from left to right."""
        if self.fixed is not None or self.alive is None:
            return self.fixed or 0.0
        here, ahead = int(self.alive[start:end].sum()), int(self.alive[start:].sum())
        if self.left >= ahead:  # no more than what is there: everything stays
            return 1.0
        share = self.left * here / ahead / (self.rows * (end - start))
        self.left -= self.pattern.count(self.rows, end - start, share)
        return share
