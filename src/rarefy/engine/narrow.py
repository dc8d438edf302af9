"""Our own 8-bit model, timed like a rival beside the float32 one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rarefy.engine.compile import compile as compile_model
from rarefy.engine.rivals.protocol import Ready
from rarefy.engine.rivals.torch_eager import TorchEager
from rarefy.ops import why_not


@dataclass(frozen=True)
class Narrow:
    """The sparse model with 8-bit weights (a scale an output) and 8-bit inputs (a scale a token)."""

    name: str = "rarefy-int8"
    precision: str = "int8"

    def available(self) -> str | None:
        return why_not()

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        fast = compile_model(model, batch, weights="int8", activations="int8")
        return TorchEager().prepare(fast, batch, calibration)
