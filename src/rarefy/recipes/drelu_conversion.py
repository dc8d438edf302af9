"""A gated language model becomes one with dReLU, and learns back what it lost from what it was."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.analysis.activation_stats import ActivationStats, activation_stats
from rarefy.calibration.batches import as_batches
from rarefy.finetuning.distill import DistillReport, distill
from rarefy.selectors.readers import readers


@dataclass(frozen=True)
class Conversion:
    """What was distilled, and how dense the down projections' inputs are afterwards."""

    distilled: DistillReport
    stats: ActivationStats


def convert_to_drelu(
    model: nn.Module, data: Iterable[Any], *, steps: int, lr: float = 1e-3, seconds: float | None = None, seed: int = 0
) -> Conversion:
    """Swaps the activations for dReLU in place and distils the model from its old self, block by block.

    data: batches of model inputs. This is the start of a recovery: continue with the ordinary loss on much text, as
    the paper does with 150 billion tokens. Source: Song et al. 2024, arXiv:2406.05955, section 4.
    Differs: hidden states are matched first; the paper trains on the language loss alone.
    """
    batches = as_batches(data, method="convert_to_drelu", needed=True)
    teacher = copy.deepcopy(model)
    DReLU().apply(model)
    report = distill(model, teacher, batches, steps=steps, lr=lr, seconds=seconds, seed=seed)
    downs = list(readers(model, None, ("down",)))
    return Conversion(report, activation_stats(model, batches, layers=downs))
