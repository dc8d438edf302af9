"""Constant fan-in: every output neuron has equally many inputs, so rows need no offsets."""

from dataclasses import dataclass

from rarefy.core.registry import method
from rarefy.core.shapes import RowMask, Scores
from rarefy.core.topk import exact_count, keep_top


@method("fanin", role="pattern", source="Lasby et al. 2023 (SRigL), arXiv:2305.02299, section 3")
@dataclass(frozen=True)
class FanIn:
    """Constant fan-in: exactly `round(density * in)` kept entries in every row.

    >>> import torch
    >>> FanIn().select(torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]), density=0.5).int()
    tensor([[0, 0, 1, 1],
            [1, 1, 0, 0]], dtype=torch.int32)
    """

    granularity = (1, 1)
    span = None

    def select(self, scores: Scores, density: float) -> RowMask:
        return keep_top(scores, exact_count(scores.shape[1], density))

    def allows(self, mask: RowMask) -> bool:
        """Whether every row keeps equally many."""
        return True if mask.shape[0] == 0 else bool((mask.sum(1) == mask.sum(1)[0]).all())

    def count(self, rows: int, n: int, density: float) -> int:
        return rows * exact_count(n, density)
