"""Linear layers made really smaller: some outputs and some inputs are kept, in a given order."""

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError


def slice_outputs(layer: nn.Module, keep: Tensor) -> None:
    """Keeps those outputs of a linear layer (nn.Linear or Conv1D), with their biases, in place. keep: int64 (k,)."""
    _slice(layer, keep, outputs=True)
    bias = layer._parameters.get("bias")
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach()[keep].clone(), bias.requires_grad)


def slice_inputs(layer: nn.Module, keep: Tensor) -> None:
    """Keeps those inputs of a linear layer, in place; the bias stays. keep: int64 (k,)."""
    _slice(layer, keep, outputs=False)


def _slice(layer: nn.Module, keep: Tensor, outputs: bool) -> None:
    weight = layer._parameters.get("weight")
    if weight is None or weight.dim() != 2:
        raise ModelError(f"slicing: {type(layer).__name__} is no linear layer with a weight of its own")
    transposed = type(layer).__name__ == "Conv1D"
    axis = int(outputs == transposed)
    kept = weight.detach().index_select(axis, keep).clone()
    layer.weight = nn.Parameter(kept, weight.requires_grad)
    if outputs:
        setattr(layer, "nf" if transposed else "out_features", len(keep))
    else:
        setattr(layer, "nx" if transposed else "in_features", len(keep))


def weight_rows(layer: nn.Module) -> Tensor:
    """The weight as (out, in), detached, whichever way the class stores it."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().t() if type(layer).__name__ == "Conv1D" else weight.detach()
