"""PyTorch as it is called by everyone: the baseline of every table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rarefy.calibration.batches import call_model
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.engine.rivals.protocol import Ready


@dataclass(frozen=True)
class TorchEager:
    """The module itself, dense."""

    name: str = "torch"
    precision: str = "fp32"

    def available(self) -> str | None:
        return None

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        return lambda given: first_tensor(call_model(model, given, 0))
