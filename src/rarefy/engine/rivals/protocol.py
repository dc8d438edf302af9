"""What a rival is: a name, whether it can run here, and how it prepares a model for one shape of input."""

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rarefy.engine.cpu import int8_units

Ready = Callable[[Any], Tensor]  # takes the batch it was prepared for, gives the model's first output


@runtime_checkable
class Rival(Protocol):
    """One way to run a model. precision: "fp32" or "int8"."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def precision(self) -> str: ...

    @abstractmethod
    def available(self) -> str | None:
        """None if it can run here, else the reason why not."""

    @abstractmethod
    def prepare(self, model: nn.Module, batch: Any, calibration: Sequence[Any]) -> Ready:
        """The model made ready for batches of this shape, on `torch.get_num_threads()` threads.

        calibration: batches of real inputs, for rivals that quantise by what they see.
        """


def missing(*modules: str) -> str | None:
    """None if all modules can be imported, else which packages are not installed."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def threads() -> int:
    return torch.get_num_threads()


def isa_of(precision: str) -> str:
    """The instructions that an int8 rival may use on this CPU, which decide how far it gets ahead of fp32."""
    return int8_units() if precision == "int8" else ""
