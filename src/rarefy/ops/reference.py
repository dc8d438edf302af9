"""The operations in plain torch: what runs without the native module, and what the native results are compared with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """act(x weight^T + bias): x (..., in), weight (out, in), bias (out), gives (..., out)."""
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def activation_gradient(grad: Tensor, before: Tensor, activation: str) -> Tensor:
    """grad * act'(before), elementwise; `before` is what the activation was applied to."""
    if activation == "none":
        return grad
    if activation == "relu":
        return torch.where(before > 0, grad, torch.zeros_like(grad))
    if activation == "relu2":
        return grad * 2 * F.relu(before)
    if activation == "silu":
        return torch.ops.aten.silu_backward(grad, before)
    return torch.ops.aten.gelu_backward(grad, before, approximate="tanh" if activation == "gelu_tanh" else "none")


def rows_of(row_offsets: Tensor) -> Tensor:
    """The row of every entry of compressed rows: row_offsets (out + 1), gives (entries)."""
    counts = row_offsets.diff()
    return torch.repeat_interleave(torch.arange(counts.numel()), counts)


def csr_to_dense(values: Tensor, columns: Tensor, row_offsets: Tensor, out_features: int, in_features: int) -> Tensor:
    """Compressed rows as (out, in); entries that name the same place add up."""
    dense = values.new_zeros(out_features, in_features)
    return dense.index_put_((rows_of(row_offsets), columns.long()), values, accumulate=True)


def csr_linear(
    x: Tensor, values: Tensor, columns: Tensor, row_offsets: Tensor, bias: Tensor | None, out_features: int
) -> Tensor:
    """x W^T + bias: x (tokens, in), W in compressed rows (out, in), gives (tokens, out)."""
    return F.linear(x, csr_to_dense(values, columns, row_offsets, out_features, x.shape[1]), bias)


def csr_input_grad(grad: Tensor, values: Tensor, columns: Tensor, row_offsets: Tensor, in_features: int) -> Tensor:
    """grad W: grad (tokens, out), gives (tokens, in)."""
    return grad @ csr_to_dense(values, columns, row_offsets, grad.shape[1], in_features)


def sddmm(grad: Tensor, x: Tensor, columns: Tensor, row_offsets: Tensor) -> Tensor:
    """The sampled product: out[e] = sum over t of grad[t, row of e] x[t, column of e], for the entries of the support.

    grad (tokens, out), x (tokens, in), gives (entries).
    """
    return (grad[:, rows_of(row_offsets)] * x[:, columns.long()]).sum(0)
