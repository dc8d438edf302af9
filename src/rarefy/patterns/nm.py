"""N:M: of every M consecutive entries of a row, N are kept."""

from dataclasses import dataclass

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.divide import require_tiles


@method("nm", role="pattern", source="Mishra et al. 2021, arXiv:2104.08378, section 3; Zhou et al. 2021")
@dataclass(frozen=True)
class NM:
    """N:M (written "2:4"): the density is n / m, whatever is asked must agree with it.

    >>> import torch
    >>> NM(2, 4).select(torch.tensor([[1.0, -3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0]]), density=0.5).int()
    tensor([[1, 0, 1, 0, 1, 1, 0, 0]], dtype=torch.int32)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise SparsityError(f"NM({self.n}, {self.m}): needs 0 < n <= m, for example NM(2, 4)")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def granularity(self) -> tuple[int, int]:
        return (1, self.m)

    @property
    def span(self) -> int | None:
        return self.m

    @property
    def density(self) -> float:
        """The only density that the pattern has."""
        return self.n / self.m

    def _require(self, rows: int, columns: int, density: float) -> None:
        require_tiles(self, self.granularity, rows, columns)
        self.require_density(rows * columns, density)

    def require_density(self, size: int, density: float) -> None:
        """Raises SparsityError unless the density keeps as many of so many entries as the pattern does."""
        if exact_count(size, density) != exact_count(size, self.density):
            raise SparsityError(
                f"{self}: keeps {self.density:g} of the weights, but density {density:g} was asked; "
                "leave sparsity out, or choose another pattern"
            )

    def select(self, scores: Scores, density: float) -> RowMask:
        rows, columns = scores.shape
        self._require(rows, columns, density)
        return keep_top(scores.reshape(-1, self.m), self.n).reshape(rows, columns)

    def allows(self, mask: RowMask) -> bool:
        require_tiles(self, self.granularity, *mask.shape)
        return bool((mask.reshape(-1, self.m).sum(1) <= self.n).all())

    def count(self, rows: int, n: int, density: float) -> int:
        self._require(rows, n, density)
        return rows * n // self.m * self.n
