"""Any model: how often it is right, or how close its outputs stay to the dense model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.calibration.batches import call_model
from rarefy.core.errors import DataError
from rarefy.engine.rivals.outputs import first_tensor


def label_loss(model: nn.Module, batch: tuple[Any, Tensor]) -> Tensor:
    """Mean cross entropy of a batch (inputs, labels)."""
    return F.cross_entropy(first_tensor(model(batch[0])).float(), batch[1])


@dataclass(frozen=True)
class Accuracy:
    """Percent of labels that have the largest output. batches: (inputs, labels (rows,)) each."""

    batches: tuple[tuple[Any, Tensor], ...]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        right = rows = 0
        with torch.inference_mode():
            for inputs, labels in self.batches:
                right += int((first_tensor(model(inputs)).argmax(-1) == labels).sum())
                rows += labels.numel()
        return {"accuracy": 100.0 * right / rows}


def labelled(batches: Sequence[Any]) -> tuple[tuple[Any, Tensor], ...]:
    """The batches, each checked to be (inputs, labels)."""
    for i, batch in enumerate(batches):
        pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)
        if not pair or batch[1].is_floating_point():
            raise DataError(f"data[{i}]: a classifier is measured on pairs (inputs, labels); labels are whole numbers")
    return tuple((batch[0], batch[1]) for batch in batches)


@dataclass(frozen=True)
class SameOutput:
    """Mean cosine between the output rows of a model and those of the dense one, `wanted` (rows, width)."""

    batches: tuple[Any, ...]
    wanted: Tensor

    def __call__(self, model: nn.Module) -> dict[str, float]:
        return {"cosine": float(F.cosine_similarity(output_rows(model, self.batches), self.wanted, dim=1).mean())}


def output_rows(model: nn.Module, batches: Sequence[Any]) -> Tensor:
    """`(rows, width)` outputs of all batches, everything after the first axis as one."""
    with torch.inference_mode():
        return torch.cat([first_tensor(call_model(model, b, i)).flatten(1).float() for i, b in enumerate(batches)])
