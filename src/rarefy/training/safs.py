"""SAFS: activation functions and training settings chosen for the sparse net rather than kept from the dense one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError, ModelError
from rarefy.core.registry import method
from rarefy.core.site import find_sites
from rarefy.training.activation_search import UNARY, Found, Scaled, late_acceptance, replace_activations


@dataclass(frozen=True)
class Safs:
    """What was found: functions by layer, the search, and for each tried setting its validation loss."""

    activations: dict[str, str]
    search: Found
    settings: tuple[tuple[Any, float], ...]
    loss: float


@method("safs", role="study", source="Loni et al. 2023, arXiv:2305.10964, algorithm 1")
def safs(
    model: nn.Module,
    train: Callable[[nn.Module, Any], object],
    validate: Callable[[nn.Module], float],
    *,
    settings: Sequence[Any],
    brief: Any = None,
    choices: Sequence[str] = tuple(UNARY),
    rounds: int = 20,
    length: int = 3,
    seed: int = 0,
) -> Safs:
    """Finds activation functions and training settings for a pruned net, in place; its zeros stay where they are.

    model: pruned, with activations that are modules. train(model, setting): fine-tunes the model in place under its
    zeros (a trainer of "static" with start="given"); validate(model): loss on data that `train` does not see.
    Stage 1 searches a function for each layer among `choices` by late acceptance, each candidate being the pruned net
    fine-tuned with the setting `brief` (the first of `settings` without it). Stage 2 gives every layer
    alpha * f(beta * x) with trainable alpha and beta, trains a copy with each of `settings`, and keeps the best.
    Differs: the paper looks for the settings with an optimizer of hyperparameters; here they are given.
    """
    if not settings:
        raise DataError("safs: no settings; give those that `train` is to try, e.g. learning rates")
    masks = [(site.name, site.parameter.detach() != 0) for site in find_sites(model)[0]]
    base = copy.deepcopy(model)
    names = replace_activations(base)
    begin = tuple(_scaled(base, name).name for name in names)
    first = settings[0] if brief is None else brief

    def loss_of(functions: tuple[str, ...]) -> float:
        tried = _with(base, names, functions)
        train(tried, first)
        return _judge(tried, masks, validate)

    with torch.random.fork_rng(devices=[]):
        found = late_acceptance(begin, loss_of, choices=choices, rounds=rounds, length=length, seed=seed)
        outcomes: list[tuple[Any, float]] = []
        best: tuple[float, nn.Module] | None = None
        for setting in settings:
            tried = _with(base, names, found.setting)
            for name in names:
                _scaled(tried, name).learn()
            train(tried, setting)
            outcomes.append((setting, _judge(tried, masks, validate)))
            if best is None or outcomes[-1][1] < best[0]:
                best = outcomes[-1][1], tried
    assert best is not None
    _take(model, best[1], names)
    return Safs(dict(zip(names, found.setting, strict=True)), found, tuple(outcomes), best[0])


def _scaled(model: nn.Module, name: str) -> Scaled:
    module = model.get_submodule(name)
    assert isinstance(module, Scaled)
    return module


def _with(base: nn.Module, names: Sequence[str], functions: Sequence[str]) -> nn.Module:
    found = copy.deepcopy(base)
    for name, function in zip(names, functions, strict=True):
        found.set_submodule(name, Scaled(function))
    return found


def _judge(model: nn.Module, masks: Sequence[tuple[str, Tensor]], validate: Callable[[nn.Module], float]) -> float:
    """The validation loss, the zeros being checked; a net that diverged is infinitely bad."""
    for name, mask in masks:
        parameter = model.get_submodule(name).weight
        assert isinstance(parameter, Tensor)
        if bool((parameter.detach()[~mask] != 0).any()):
            raise ModelError(f"safs: `train` gave {name} weights where it was pruned; train it with its zeros fixed")
    loss = float(validate(model))
    return loss if loss == loss else float("inf")


def _take(model: nn.Module, found: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        model.set_submodule(name, Scaled(_scaled(found, name).name))
        _scaled(model, name).learn()
    model.load_state_dict(found.state_dict())
