"""A parameter that changes its shape and stays the same object."""

import torch
from torch import Tensor


def replace_data(parameter: Tensor, data: Tensor) -> None:
    """`parameter.data = data`, of another shape, also while the graph of an earlier loss is alive.

    That graph holds the node which collects the parameter's gradient and has noted its old shape. torch makes a new
    node only when the data's type changes, so it does, for a moment. The gradient is let go.
    """
    parameter.grad = None
    if data.shape != parameter.shape:
        other = torch.float64 if parameter.dtype != torch.float64 else torch.float32
        parameter.data = torch.empty(0, dtype=other)
    parameter.data = data
