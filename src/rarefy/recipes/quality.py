"""How close a sparse model stays to the dense one, on inputs that nothing was fitted to."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.core.shapes import Float

_TOP = 10


@dataclass(frozen=True)
class Quality:
    """cosine: mean over rows of the cosine between dense and sparse output, 1 = the same direction.
    overlap: mean share of the `top` nearest other rows that both models agree on (None with too few rows).
    rows: how many there were. perplexity: of a language model on them, and of the dense one."""

    cosine: float
    overlap: float | None
    rows: int
    top: int = _TOP
    perplexity: float | None = None
    dense_perplexity: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        overlap = "" if self.overlap is None else f", top-{self.top} overlap {self.overlap:.3f}"
        worse = "" if self.perplexity is None else f"perplexity {self.perplexity:.2f} ({self.dense_perplexity:.2f}), "
        return f"{worse}cosine {self.cosine:.4f}{overlap} on {self.rows} unseen inputs"


def compare(sparse: Float[Tensor, "rows width"], dense: Tensor, top: int = _TOP) -> Quality:
    """Quality of sparse outputs beside dense ones `(rows, width)` of the same inputs."""
    if sparse.shape != dense.shape:
        raise ShapeError(f"compare: {tuple(sparse.shape)} and {tuple(dense.shape)} are outputs of different inputs")
    cosine = float(F.cosine_similarity(sparse, dense, dim=1).mean())
    overlap = None
    if len(dense) > 2 * top:
        overlap = float((nearest(sparse, top)[:, :, None] == nearest(dense, top)[:, None, :]).any(2).float().mean())
    return Quality(cosine, overlap, len(dense), top)


def nearest(vectors: Float[Tensor, "rows width"], top: int) -> Tensor:
    """Indices `(rows, top)` of the other rows with the largest cosine, best first."""
    unit = F.normalize(vectors, dim=1)
    scores = unit @ unit.t()
    return scores.fill_diagonal_(-torch.inf).topk(top, dim=1).indices
