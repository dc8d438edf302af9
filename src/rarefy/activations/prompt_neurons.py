"""Neurons fixed by the prompt: the coarse way to make a decoder sparse."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from rarefy.activations.hidden import activation_of
from rarefy.activations.inputs import require_kept
from rarefy.calibration.batches import as_batches
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.core.density import density_of
from rarefy.core.topk import exact_count, keep_top
from rarefy.selectors import Threshold, feed_forwards, select_hidden
from rarefy.selectors.attach import require_free
from rarefy.selectors.matrix import weight_of


def select_by_prompt(model: nn.Module, prompt: Iterable[Any], *, sparsity: float) -> list[RemovableHandle]:
    """Keeps in each feed-forward layer the neurons with the largest norm over the prompt's tokens of a_t / |a_t|.

    prompt: batches of model inputs. The choice stands until the handles are removed.
    Source: Dong et al. 2024 (GRIFFIN), arXiv:2404.01365, eq. 4 to 6; the coarse sparsity of Sirius.
    """
    batches = as_batches(prompt, method="select_by_prompt", needed=True)
    density, layers = density_of(sparsity), feed_forwards(model)
    for layer in layers:
        require_kept(sparsity, weight_of(layer.down).shape[1], layer.name, "neurons")
    require_free("select_by_prompt", hidden={layer.name: activation_of(layer) for layer in layers})
    squares: dict[str, Any] = {}
    for inputs in layer_inputs(model, {layer.name: layer.down for layer in layers}, batches):
        for name, hidden in inputs.items():
            share = hidden.float().square()
            share = share / share.sum(1, keepdim=True).clamp_min(1e-30)
            squares[name] = squares.get(name, 0) + share.sum(0)
    handles = []
    for layer in layers:
        score = squares[layer.name][None]
        keep = keep_top(score, exact_count(score.shape[1], density))[0]
        fixed = Threshold(torch.zeros((), device=keep.device), keep.float())  # |a| * 0 is never above 0
        handles.append(select_hidden(activation_of(layer), fixed))
    return handles
