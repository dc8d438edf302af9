"""Models return many things; a comparison looks at the first tensor among them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first tensor of a tuple, list, mapping or Hugging Face output."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Mapping | Sequence) and not isinstance(output, str):
        for part in parts:
            if isinstance(part, Tensor):
                return part
    raise ModelError(f"{type(output).__name__}: the model's output holds no tensor that could be compared")


def tensors_of(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch by argument name (`input_0`, ... for positional ones), in order."""
    if isinstance(batch, Tensor):
        return {"input_0": batch}
    if isinstance(batch, Mapping):
        return {str(k): v for k, v in batch.items() if isinstance(v, Tensor)}
    return {f"input_{i}": v for i, v in enumerate(batch)}


class Positional(nn.Module):
    """The model with its tensor arguments by position and its first tensor as output: what exporters understand."""

    def __init__(self, model: nn.Module, batch: Any) -> None:
        super().__init__()
        self.model = model
        self.names = list(tensors_of(batch)) if isinstance(batch, Mapping) else None
        self.train(model.training)

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.names is None:
            return first_tensor(self.model(*tensors))
        return first_tensor(self.model(**dict(zip(self.names, tensors, strict=True))))


def agreement(output: Tensor, reference: Tensor) -> float:
    """Mean cosine between the rows (last axis) of two outputs of the same shape; -1 if the shapes differ."""
    if output.shape != reference.shape:
        return -1.0
    a, b = (t.detach().reshape(-1, t.shape[-1] if t.dim() else 1).double() for t in (output, reference))
    both_zero = (a.norm(dim=1) == 0) & (b.norm(dim=1) == 0)
    return float(torch.where(both_zero, 1.0, torch.cosine_similarity(a, b, dim=1)).mean())


def relative_error(output: Tensor, reference: Tensor) -> float:
    """max |a - b| / max |b|; infinity if the shapes differ or a value is not finite."""
    if output.shape != reference.shape or not bool(output.isfinite().all()):
        return float("inf")
    scale = float(reference.detach().abs().max()) or 1.0
    return float((output.detach().double() - reference.detach().double()).abs().max()) / scale
