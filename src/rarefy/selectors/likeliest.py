"""The choice of the targets that a predictor finds likeliest."""

from dataclasses import dataclass

from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Bool, Float
from rarefy.selectors.predictor import Predictor, top


@dataclass(frozen=True, eq=False)
class Likeliest:
    """The `kept` targets with the largest logits of each token, ties to the lower index.

    spread: features a target stands for, neighbours (those of a head). full: where not None, all sequences of a step
    get the union over the batch (the first axis), and everything once that is so large a share.
    """

    predictor: Predictor
    kept: int
    spread: int = 1
    full: float | None = None

    def __post_init__(self) -> None:
        if self.kept < 0 or self.spread < 1 or (self.full is not None and not 0.0 < self.full <= 1.0):
            raise SparsityError(f"Likeliest: kept={self.kept}, spread={self.spread}, full={self.full} make no choice")

    def __call__(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens targets"]:
        """True = keep."""
        kept = top(self.predictor(x), self.kept)
        if self.full is not None:
            union = kept.any(0, keepdim=True)
            kept = (union | (union.float().mean(-1, keepdim=True) >= self.full)).expand_as(kept)
        return kept if self.spread == 1 else kept.repeat_interleave(self.spread, dim=-1)
