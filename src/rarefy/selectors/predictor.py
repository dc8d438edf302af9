"""Small nets that say from a layer's input which of its neurons or heads will matter."""

import torch
from torch import Tensor, nn

from rarefy.core.shapes import Bool, Float
from rarefy.core.topk import keep_top


class Predictor(nn.Module):
    """Logits B relu(A z), or B z with rank 0, of the standardised input z: (..., width) -> (..., targets)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, targets: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.first = nn.Linear(width, rank, bias=False) if rank else None
        self.second = nn.Linear(rank or width, targets)

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens targets"]:
        z = (x.float() - self.mean) / self.scale
        logits: Tensor = self.second(z if self.first is None else torch.relu(self.first(z)))
        return logits

    @property
    def weights(self) -> int:
        """How many weights it reads a token."""
        return sum(p.numel() for p in self.parameters())


def top(logits: Float[Tensor, "*tokens targets"], k: int) -> Bool[Tensor, "*tokens targets"]:
    """The k likeliest of each token."""
    return keep_top(logits.reshape(-1, logits.shape[-1]).float(), k).view(logits.shape)
