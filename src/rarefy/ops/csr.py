"""Compressed-row operations for weights that change at every step: every index is checked at every call."""

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native, reference
from rarefy.ops.checks import csr_index, require_bias, require_csr, require_floats, require_last, require_size


def _flat(x: Tensor) -> Tensor:
    """(..., width) as contiguous (tokens, width)."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1]).contiguous()


def linear(
    x: Tensor, values: Tensor, columns: Tensor, row_offsets: Tensor, bias: Tensor | None, out_features: int
) -> Tensor:
    """x W^T + bias: x (..., in), values and columns (entries), row_offsets (out + 1), gives (..., out)."""
    where, entries = "rarefy::csr_linear", values.numel()
    require_floats(where, x=x, values=values, bias=bias)
    require_size(where, "out_features", out_features)
    require_bias(where, bias, out_features)
    columns, row_offsets = csr_index(where, columns, row_offsets, entries, out_features)
    if x.dim() == 0:
        raise ShapeError(f"{where}: x is a scalar; it must be (..., in)")
    rows, values = _flat(x), values.contiguous()
    module = native.module()
    if module is None:
        require_csr(where, columns, row_offsets, entries, x.shape[-1])
        out = reference.csr_linear(rows, values, columns, row_offsets, bias, out_features)
    else:
        bias = None if bias is None else bias.contiguous()
        out = torch.empty(rows.shape[0], out_features)
        module.csr_multiply(
            out_features,
            x.shape[-1],
            row_offsets.data_ptr(),
            columns.data_ptr(),
            values.data_ptr(),
            entries,
            rows.data_ptr(),
            rows.shape[0],
            0 if bias is None else bias.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
    return out.view(*x.shape[:-1], out_features)


def input_grad(grad: Tensor, values: Tensor, columns: Tensor, row_offsets: Tensor, in_features: int) -> Tensor:
    """grad W: grad (..., out), gives (..., in)."""
    where, entries = "rarefy::csr_input_grad", values.numel()
    require_floats(where, grad=grad, values=values)
    require_size(where, "in_features", in_features)
    require_last(where, grad, row_offsets.numel() - 1)
    out_features = grad.shape[-1]
    columns, row_offsets = csr_index(where, columns, row_offsets, entries, out_features)
    rows, values = _flat(grad), values.contiguous()
    module = native.module()
    if module is None:
        require_csr(where, columns, row_offsets, entries, in_features)
        out = reference.csr_input_grad(rows, values, columns, row_offsets, in_features)
    else:
        out = torch.empty(rows.shape[0], in_features)
        module.csr_multiply_transposed(
            out_features,
            in_features,
            row_offsets.data_ptr(),
            columns.data_ptr(),
            values.data_ptr(),
            entries,
            rows.data_ptr(),
            rows.shape[0],
            out.data_ptr(),
            torch.get_num_threads(),
        )
    return out.view(*grad.shape[:-1], in_features)


def sddmm(grad: Tensor, x: Tensor, columns: Tensor, row_offsets: Tensor) -> Tensor:
    """grad^T x on the support: grad (..., out), x (..., in), gives (entries)."""
    where, entries = "rarefy::sddmm", columns.numel()
    require_floats(where, grad=grad, x=x)
    require_last(where, grad, row_offsets.numel() - 1)
    if x.dim() == 0 or x.shape[:-1] != grad.shape[:-1]:
        raise ShapeError(
            f"{where}: grad has shape {tuple(grad.shape)} and x {tuple(x.shape)}; all but the last must agree"
        )
    columns, row_offsets = csr_index(where, columns, row_offsets, entries, grad.shape[-1])
    left, right = _flat(grad), _flat(x)
    module = native.module()
    if module is None:
        require_csr(where, columns, row_offsets, entries, x.shape[-1])
        return reference.sddmm(left, right, columns, row_offsets)
    out = torch.empty(entries)
    module.csr_sample(
        grad.shape[-1],
        x.shape[-1],
        row_offsets.data_ptr(),
        columns.data_ptr(),
        out.data_ptr(),
        entries,
        left.data_ptr(),
        right.data_ptr(),
        left.shape[0],
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out
