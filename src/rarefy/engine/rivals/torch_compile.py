"""torch.compile with its default backend, one static graph a shape."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rarefy.engine.rivals.outputs import Positional, tensors_of
from rarefy.engine.rivals.protocol import Ready


@dataclass(frozen=True)
class TorchCompile:
    """Inductor's generated C++ around the same matrix products."""

    name: str = "torch.compile"
    precision: str = "fp32"

    def available(self) -> str | None:
        found = any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++"))
        return None if found else "no C++ compiler found, which its default backend needs"

    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        compiled = torch.compile(Positional(model, batch), dynamic=False)
        return lambda given: compiled(*tensors_of(given).values())
