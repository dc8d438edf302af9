"""What a census counts: which neurons are active at which token of which text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import token_mask
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.core.errors import DataError, ModelError


@dataclass(frozen=True)
class Activity:
    """tokens: (rows, length); active: {layer: bool (rows * length, neurons)}."""

    tokens: Tensor
    active: dict[str, Tensor]


def collect(model: nn.Module, places: Mapping[str, nn.Module], batches: Sequence[Any]) -> Activity:
    """Runs the batches. DataError where they hold no ids, are padded, or differ in length (positions would mix)."""
    tokens = [_ids(batch, i) for i, batch in enumerate(batches)]
    if len({ids.shape[1] for ids in tokens}) != 1:
        raise DataError("census: the batches have different lengths; cut the text into rows of one length")
    parts: dict[str, list[Tensor]] = {name: [] for name in places}
    for inputs in layer_inputs(model, places, batches):
        for name, x in inputs.items():
            parts[name].append(x != 0)
    found = Activity(torch.cat(tokens), {name: torch.cat(part) for name, part in parts.items()})
    for name, active in found.active.items():
        if len(active) != found.tokens.numel():
            raise ModelError(
                f"census: {name} read {len(active)} rows for {found.tokens.numel()} tokens; a layer that blocks share, "
                "or that does not see every token once, has no census"
            )
    return found


def _ids(batch: Any, index: int) -> Tensor:
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
    ids = ids[0] if isinstance(ids, tuple | list) else ids
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise DataError(f"census: data[{index}] holds no input_ids (rows, tokens) of integers")
    mask = token_mask(batch)
    if mask is not None and not bool(mask.all()):
        raise DataError(f"census: data[{index}] is padded; give rows of one length without padding")
    return ids


def ngram_ids(tokens: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(rows, length) number of the n-gram that ends at each token, -1 where it would begin before its row; and the
    n-grams by their number, (count, n)."""
    rows, length = tokens.shape
    ids = torch.full((rows, length), -1, dtype=torch.long, device=tokens.device)
    if length < n:
        return ids, tokens.new_zeros(0, n)
    grams = tokens.unfold(1, n, 1)
    spelt, number = grams.reshape(-1, n).unique(dim=0, return_inverse=True)
    ids[:, n - 1 :] = number.view(rows, length - n + 1)
    return ids, spelt


def active_by(active: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups, neurons): in how many tokens of each group a neuron is active; active (tokens, neurons)."""
    found = torch.zeros(groups, active.shape[1], dtype=torch.float64, device=active.device)
    return found.index_add_(0, group, active.double())
