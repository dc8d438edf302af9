"""What predictors learn from: the inputs of blocks, which neurons fire, which heads speak."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.head_places import Heads
from rarefy.activations.predictor import top
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.selectors import FeedForward


def seen(
    model: nn.Module, layers: Sequence[FeedForward], heads: Sequence[Heads], batches: Sequence[Any], what: str = "data"
) -> dict[str, Tensor]:
    """(tokens, width) of "NAME in" (what a layer reads) and "NAME out" (what joins its neurons or heads reads).

    what: the argument that the batches were given as.
    """
    places: dict[str, nn.Module] = {}
    for layer in layers:
        places |= {f"{layer.name} in": layer.up, f"{layer.name} out": layer.down}
    for head in heads:
        places |= {f"{head.name} in": head.source, f"{head.name} out": head.join}
    parts: dict[str, list[Tensor]] = {name: [] for name in places}
    for inputs in layer_inputs(model, places, batches, what):
        for name, x in inputs.items():
            parts[name].append(x.float())
    return {name: torch.cat(part) for name, part in parts.items()}


def firing(hidden: Tensor, k: int) -> Tensor:
    """Which neurons matter to each token: those that are not zero, or the k largest where more are not."""
    active = hidden != 0
    return active & top(hidden.abs(), k) if bool((active.sum(1) > k).any()) else active


def speaking(head: Heads, joined: Tensor, k: int) -> Tensor:
    """The k groups of heads with the longest outputs, (tokens, groups)."""
    return top(head.norms(joined), k)


def sources(names: Sequence[str], lookahead: bool) -> dict[str, str]:
    """{layer: the layer whose input its predictor reads}: its own; with lookahead that of the one before, if any."""
    return {name: names[max(0, i - 1)] if lookahead else name for i, name in enumerate(names)}
