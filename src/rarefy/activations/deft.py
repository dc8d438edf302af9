"""DEFT: fine-tuning that also lowers the density of the activations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rarefy.activations.penalty import ActivationPenalty, SmoothCount
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method


@method("deft", source="Runwal et al. 2024, arXiv:2402.01911, section 3, eq. 3", protocols=("transform",))
@dataclass(frozen=True)
class Deft:
    """L = L_task + alpha * mean over layers, tokens and neurons of tanh(beta |a|).

    For any fine-tuning: with LoRA, prompts or adapters, freeze the base as ever, and only they learn to be sparse.
    alpha = 0 is the plain fine-tuning, bit for bit. Models with GELU: read `penalty.density(above=0.01)`.
    Differs: one function for ReLU and GELU models, tanh of |a|.
    """

    alpha: float = 0.1
    beta: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha < math.inf:
            raise SparsityError(
                f"deft: alpha {self.alpha} is no number from 0 up; below 0 activations would grow dense"
            )

    def attach(self, model: nn.Module, layers: Sequence[str] | None = None) -> ActivationPenalty:
        """The penalty, hung on the model: add its `.loss()` to yours. `layers`: as for `ActivationPenalty`."""
        return ActivationPenalty(model, SmoothCount(self.beta), self.alpha, layers)
