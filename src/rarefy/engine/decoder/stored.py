"""Weights of a saved decoder that stay in its file while it runs."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Held(Protocol):
    """A tensor of a file that is expanded when it is asked for."""

    def to_dense(self) -> Tensor: ...


@dataclass(frozen=True)
class StoredLayers:
    """held: by the dotted name of their layer, oriented as its parameter, those that the model itself does not hold.

    fingerprint: equal for models of equal content, None where nothing says so.
    """

    held: Mapping[str, Held] = field(default_factory=dict)
    fingerprint: str | None = None

    def of(self, name: str) -> Tensor | None:
        """The weight of a layer, None where the model has it."""
        held = self.held.get(name)
        return None if held is None else held.to_dense()

    def filled(self, model: nn.Module) -> nn.Module:
        """A copy of the model with these weights."""
        twin = copy.deepcopy(model)
        for name, held in self.held.items():
            twin.get_submodule(name).weight = nn.Parameter(held.to_dense(), requires_grad=False)
        return twin
