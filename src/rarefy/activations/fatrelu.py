"""FATReLU: a ReLU that also drops small positive values."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.activations.relufication import require_relu
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.selectors import Threshold, feed_forwards, select_hidden
from rarefy.selectors.attach import require_free


def fatrelu(x: Tensor, threshold: float) -> Tensor:
    """x where x > threshold, else 0. At the threshold itself, a set of measure zero, the paper keeps and we drop.

    >>> fatrelu(torch.tensor([-1.0, 0.05, 0.2]), 0.1)
    tensor([0.0000, 0.0000, 0.2000])
    """
    return x * (x > threshold)


@method(
    "fatrelu", source="Kurtz et al. 2020, ICML (PMLR 119), section 3.2: forced-activation-threshold ReLU",
    protocols=("selector",),
)  # fmt: skip
@dataclass(frozen=True)
class FATReLU:
    """Raises the threshold of trained ReLUs: values in (0, threshold] become zero too, larger ones stay as they are.

    It is a selector on what the ReLU gives, so inference skips the neurons and training goes on through the kept ones.
    """

    threshold: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < math.inf:
            raise SparsityError(
                f"fatrelu: threshold {self.threshold} is negative or no finite number; 0 is a plain ReLU"
            )

    def apply(self, model: nn.Module) -> list[str]:
        """Attaches the threshold to every feed-forward ReLU; ModelError where the activation is another."""
        require_relu(model, "fatrelu")
        layers = feed_forwards(model)
        require_free("fatrelu", hidden={layer.name: layer.activation for layer in layers})
        for layer in layers:
            assert isinstance(layer.activation, nn.Module)
            select_hidden(layer.activation, Threshold(torch.tensor(float(self.threshold))))
        return [layer.name for layer in layers]
