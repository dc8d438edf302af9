"""Any support is allowed; the two patterns differ in what competes with what."""

from dataclasses import dataclass

from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.core.topk import exact_count, keep_top


@method("layerwise", role="pattern", source="Han et al. 2015, arXiv:1506.02626, section 3")
@dataclass(frozen=True)
class Layerwise:
    """Unstructured: the entries of the whole layer compete.

    >>> Layerwise().count(2, 5, density=0.3)
    3
    """

    granularity = (1, 1)
    span = None

    def select(self, scores: Scores, density: float) -> RowMask:
        count = exact_count(scores.numel(), density)
        return keep_top(scores.reshape(1, -1), count).reshape(scores.shape)

    def allows(self, mask: RowMask) -> bool:
        return True

    def count(self, rows: int, n: int, density: float) -> int:
        return exact_count(rows * n, density)


@method("rowwise", role="pattern", source="Sun et al. 2023 (Wanda), arXiv:2306.11695, section 3")
@dataclass(frozen=True)
class Rowwise:
    """Unstructured: the entries of each output row compete among themselves, equal count in every row.

    >>> Rowwise().count(2, 5, density=0.3)
    4
    """

    granularity = (1, 1)
    span = None

    def select(self, scores: Scores, density: float) -> RowMask:
        return keep_top(scores, exact_count(scores.shape[1], density))

    def allows(self, mask: RowMask) -> bool:
        return True

    def count(self, rows: int, n: int, density: float) -> int:
        return rows * exact_count(n, density)
