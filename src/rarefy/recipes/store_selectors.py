"""Selectors as they lie beside the weights: a record each, and the tensors that it needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rarefy.activations.straight_through import train_through, trained
from rarefy.core.errors import FileError
from rarefy.recipes.store_foreseen import foreseen_in, foreseen_out
from rarefy.selectors.attach import Masking, attached, input_selector, select_hidden, select_inputs
from rarefy.selectors.block_top_k import BlockTopK
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.positive import Positive
from rarefy.selectors.threshold import Threshold
from rarefy.selectors.top_k import TopK

PREDICTED = "foreseen"
"""The kind of a selector whose choice a predictor makes."""


def say_selectors(model: nn.Module, tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The records of all selectors of a model in the order of `attached`; what they need is put into `tensors`.

    Raises FileError for a selector that no file holds.
    """
    return [_out(model, i, *found, tensors) for i, found in enumerate(attached(model))]


def hang_selectors(model: nn.Module, records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
    """Attaches what records say, hooks in the order in which they were. Raises what does not fit the model."""
    every = [(said, _in(said, _parts(tensors, i))) for i, said in enumerate(records)]
    _watch(model, every, selected=False)
    for said, selector in every:
        _attach(model.get_submodule(said["name"]), said, selector)
    _watch(model, every, selected=True)


def _prefix(i: int) -> str:
    return f"selectors.{i}."


def _out(
    model: nn.Module, i: int, name: str, module: nn.Module, selector: Masking, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    side = "input" if input_selector(module) is selector else "hidden"
    said: dict[str, Any] = {"name": name, "side": side}
    if isinstance(selector, TopK):
        parts: Mapping[str, Tensor | None] = {"weight": selector.weight}
        said |= {"kind": "top-k", "k": selector.k}
    elif isinstance(selector, Threshold):
        parts = {"threshold": selector.threshold, "weight": selector.weight}
        said |= {"kind": "threshold"}
    elif isinstance(selector, Positive):
        parts = {}
        said |= {"kind": "positive"}
    elif isinstance(selector, BlockTopK):
        parts = {}
        said |= {"kind": "block-top-k", "n": selector.n, "m": selector.m}
    elif isinstance(selector, Foreseen):
        more, parts = foreseen_out(model, name, selector)
        said |= {"kind": PREDICTED} | more
    else:
        raise FileError(
            f"save: {name} has a {type(selector).__name__}, which no file holds; take it off with "
            "rarefy.selectors.detach(model) first"
        )
    if (hook := trained(module)) is not None and side == "input":
        said |= {"straight_through": True, "levels": hook.levels}
    tensors |= {f"{_prefix(i)}{part}": value for part, value in parts.items() if value is not None}
    return said


def _parts(tensors: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """Those of the selector of that number, by their own names."""
    prefix = _prefix(i)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _attach(module: nn.Module, said: Mapping[str, Any], selector: Masking) -> None:
    attach = select_inputs if said["side"] == "input" else select_hidden
    attach(module, selector)
    if said.get("straight_through") is True:
        levels = said["levels"]
        train_through(module, None if levels is None else int(levels))


def _watch(model: nn.Module, every: Sequence[tuple[Mapping[str, Any], Masking]], *, selected: bool) -> None:
    """Hangs the choices that are made from an input as a selector has left it, or from one as it comes."""
    for said, selector in every:
        if isinstance(selector, Foreseen) and bool(said["selected"]) == selected:
            selector.watch(model.get_submodule(said["source"]))


def _in(said: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Masking:
    if said["kind"] == "top-k":
        return TopK(int(said["k"]), parts.get("weight"))
    if said["kind"] == "threshold":
        return Threshold(parts["threshold"], parts.get("weight"))
    if said["kind"] == "positive":
        return Positive()
    if said["kind"] == "block-top-k":
        return BlockTopK(int(said["n"]), int(said["m"]))
    if said["kind"] == PREDICTED:
        return foreseen_in(said, parts)
    raise ValueError(f"{said} is no selector")
