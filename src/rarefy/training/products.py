"""Counting the multiplications of a training whose weights and gradients are sparse."""

from collections.abc import Sequence
from dataclasses import dataclass

from rarefy.training.held import MOVES
from rarefy.training.state import WeightState


@dataclass
class Products:
    """Multiplications with the trained weights, for every position at which a weight is used once.

    sparse: forward (kept weights), gradient of the inputs (kept weights) and gradient of the weights (those that move);
    dense: of the dense training on all examples; scoring: gradients taken only to choose masks.
    """

    size: int
    sparse: int = 0
    dense: float = 0.0
    scoring: int = 0

    @classmethod
    def of(cls, states: Sequence[WeightState]) -> "Products":
        return cls(sum(state.mask.numel() for state in states))

    @property
    def share(self) -> float:
        """Of the dense training's multiplications, those of scoring included."""
        return (self.sparse + self.scoring) / self.dense if self.dense else 0.0

    def count(self, states: Sequence[WeightState], examples: int, left: float = 1.0) -> None:
        """One step on so many examples; left: the share of all examples that are still trained on."""
        kept = sum(state.kept for state in states)
        moving = sum(int((state.mask & state.extra[MOVES]).sum()) for state in states)
        self.sparse += examples * (2 * kept + moving)
        self.dense += examples / left * 3 * self.size

    def count_scoring(self, states: Sequence[WeightState], examples: int) -> None:
        """A forward pass, and dense gradients of the weights."""
        kept = sum(state.kept for state in states)
        self.scoring += examples * (2 * kept + self.size)
