"""ProSparse: ReLU, then an L1 term that grows in smooth stages, then a raised threshold."""

import math
from dataclasses import dataclass

from torch import nn

from rarefy.activations.fatrelu import FATReLU
from rarefy.activations.penalty import L1, ActivationPenalty
from rarefy.activations.relufication import Relufication
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.schedules.staged_sine import StagedSine


@method("prosparse", source="Song et al. 2024, arXiv:2402.13516, section 3.2, eq. 3 to 5", protocols=("transform",))
@dataclass(frozen=True)
class ProSparse:
    """The three parts of a run: `begin` swaps the activations, its penalty rises by stages, `finish` shifts them.

    ends: the last step of each stage, weights: that of the L1 term at its end (the first stage is a warm-up at
    weights[0]); threshold: of the FATReLU at the end.
    Differs: the L1 norm is a mean over neurons, so a weight fits every width.
    """

    ends: tuple[int, ...] = (100, 300, 1000)
    weights: tuple[float, ...] = (0.01, 0.05, 0.2)
    threshold: float = 0.01

    def __post_init__(self) -> None:
        StagedSine(self.ends, self.weights)  # says what is wrong with them
        if not all(0.0 <= weight < math.inf for weight in self.weights):
            raise SparsityError(f"prosparse: weights {self.weights} of the L1 term; give numbers from 0 up")
        FATReLU(self.threshold)

    def begin(self, model: nn.Module) -> ActivationPenalty:
        """Swaps SiLU or GELU for ReLU in place, and gives the penalty: add `.loss()`, call `.step()` once a step."""
        Relufication().apply(model)
        return ActivationPenalty(model, L1(), StagedSine(self.ends, self.weights))

    def finish(self, model: nn.Module) -> list[str]:
        """Raises the thresholds of the trained ReLUs, in place."""
        return FATReLU(self.threshold).apply(model)
