"""Small nets that say from a layer's input which of its neurons or heads will matter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rarefy.core.errors import ShapeError
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

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Predictor:
        """The net whose `state_dict` this is, in float32 and evaluation mode, without gradients.

        Raises ShapeError where parts are missing or do not fit each other.
        """
        width, rank = _shape(state, "mean", 1)[0], _shape(state, "first.weight", 2)[0] if "first.weight" in state else 0
        with torch.device("meta"):
            net = cls(width, _shape(state, "second.weight", 2)[0], rank)
        try:
            net.load_state_dict({part: tensor.float() for part, tensor in state.items()}, assign=True)
        except RuntimeError as error:
            raise ShapeError(f"Predictor.of: the parts do not fit each other: {error}") from error
        return net.requires_grad_(False).eval()

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens targets"]:
        z = (x.float() - self.mean) / self.scale
        logits: Tensor = self.second(z if self.first is None else torch.relu(self.first(z)))
        return logits

    @property
    def weights(self) -> int:
        """How many weights it reads a token."""
        return sum(p.numel() for p in self.parameters())


def _shape(state: Mapping[str, Tensor], part: str, axes: int) -> tuple[int, ...]:
    if part not in state or state[part].dim() != axes:
        given = tuple(state[part].shape) if part in state else "missing"
        raise ShapeError(f"Predictor.of: {part} is {given}; a predictor's has {axes} axes")
    return tuple(state[part].shape)


def top(logits: Float[Tensor, "*tokens targets"], k: int) -> Bool[Tensor, "*tokens targets"]:
    """The k likeliest of each token."""
    return keep_top(logits.reshape(-1, logits.shape[-1]).float(), k).view(logits.shape)
