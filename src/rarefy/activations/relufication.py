"""ReLU-fication: a smooth activation becomes a ReLU, so that a short training brings exact zeros."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.swap import APART, OTHERS, SETTINGS, swap_activations
from rarefy.core.errors import ModelError, SparsityError, unknown_name
from rarefy.core.registry import method
from rarefy.selectors import Projection, feed_forwards, projections, select_inputs
from rarefy.selectors.attach import require_free
from rarefy.selectors.positive import Positive

SHIFTED = "shifted_relu"
"""In configs, the name of the activation and of the setting with its shift; transformers knows neither."""
_NAMES = {"relu": "relu", "squared": "relu2", "shifted": SHIFTED}


class ShiftedReLU(nn.Module):
    """max(x - shift, 0): the shift is chosen where most pre-activations lie below it."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - self.shift)

    def extra_repr(self) -> str:
        return f"shift={self.shift}"


class SquaredReLU(nn.Module):
    """max(x, 0)^2. Source: So et al. 2021 (Primer), arXiv:2109.08668."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


@method("relufication", source="Mirzadeh et al. 2023, arXiv:2310.04564, sections 4 and 5.3", protocols=("selector",))
@dataclass(frozen=True)
class Relufication:
    """Swaps the feed-forward activations for ReLU ("relu"), ReLU(x - shift) ("shifted") or ReLU(x)^2 ("squared").

    inputs: the paper's second stage, a ReLU behind the norms too: what q, k, v, gate and up read is rectified, as a
    selector `Positive` of their inputs, so that the whole block multiplies by zeros. Train on after `apply`.
    Folders hold such models. transformers has "relu" and "squared"; `rarefy.load` alone reads "shifted", and a model
    that computes the old function elsewhere too (the head of a BERT for masked words), which transformers refuses.
    """

    function: str = "relu"
    shift: float = 0.0
    inputs: bool = False

    def __post_init__(self) -> None:
        if self.function not in ("relu", "shifted", "squared"):
            raise unknown_name("relufication(function=)", self.function, ("relu", "shifted", "squared"))
        if not math.isfinite(self.shift):
            raise SparsityError(f"relufication: shift {self.shift} is not a finite number")
        if self.shift and self.function != "shifted":
            raise SparsityError(f"relufication: shift {self.shift} is for function='shifted', not {self.function!r}")

    def make(self) -> nn.Module:
        """A new activation module."""
        kinds = {"relu": nn.ReLU, "squared": SquaredReLU}
        return ShiftedReLU(self.shift) if self.function == "shifted" else kinds[self.function]()

    def apply(self, model: nn.Module) -> list[str]:
        """Changes the model in place; gives the names of the activations and layers that were changed."""
        if self.inputs:
            require_free("relufication", inputs={layer.name: layer.module for layer in _readers(model)})
        found = swap_activations(model, lambda layer: self.make(), _NAMES[self.function])
        if self.function == "shifted" and hasattr(model, "config"):
            setattr(model.config, SHIFTED, self.shift)
        return found + (_rectify_inputs(model) if self.inputs else [])


def buildable(config: Mapping[str, Any]) -> tuple[dict[str, Any], Relufication | None]:
    """A model's settings as transformers can build it, and what then makes of it the model that they are of.

    Raises SparsityError where the shift, or the function outside of the feed-forward layers, is not there or is none.
    """
    said = {name: value for name in SETTINGS if isinstance(value := config.get(name), str) and _is_ours(value)}
    if not said:
        return dict(config), None
    name, value = next(iter(said.items()))
    function, shift, others = value.removeprefix(APART), config.get(SHIFTED), config.get(OTHERS)
    if function == SHIFTED and (isinstance(shift, bool) or not isinstance(shift, int | float)):
        raise SparsityError(f"{name} is {value!r}, and its {SHIFTED} is {shift!r}, no number")
    if value != function and not isinstance(others, str):
        raise SparsityError(f"{name} is {value!r}, and its {OTHERS} is {others!r}, the name of no function")
    plain = {name: (others or "relu") if name in said else value for name, value in config.items()}
    kind = next(kind for kind, name in _NAMES.items() if name == function)
    made = Relufication(kind, float(shift) if function == SHIFTED else 0.0)  # type: ignore[arg-type]
    return {name: value for name, value in plain.items() if name not in (SHIFTED, OTHERS)}, made


def _is_ours(name: str) -> bool:
    return name == SHIFTED or (name.startswith(APART) and name.removeprefix(APART) in _NAMES.values())


def _readers(model: nn.Module) -> list[Projection]:
    """What reads behind the norms."""
    return [p for p in projections(model) if p.part in ("q", "k", "v", "qkv", "gate", "up", "in")]


def _rectify_inputs(model: nn.Module) -> list[str]:
    layers = _readers(model)
    for layer in layers:
        select_inputs(layer.module, Positive())
    return [layer.name for layer in layers]


def require_relu(model: nn.Module, what: str) -> None:
    """ModelError unless every feed-forward activation is a plain ReLU."""
    for layer in feed_forwards(model):
        if type(layer.activation).__name__ not in ("ReLU", "ReLUActivation"):
            kind = type(layer.activation).__name__ if isinstance(layer.activation, nn.Module) else layer.activation
            raise ModelError(f"{what}: {layer.name} has {kind}, not ReLU; call Relufication().apply(model) and train")
