"""What an operation demands of its tensors, said before any address is handed to native code."""

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError


def require_floats(where: str, **tensors: Tensor | None) -> None:
    """All float32, on the CPU, strided."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype != torch.float32:
            raise DTypeError(f"{where}: {name} is {tensor.dtype}, the kernels compute in float32; call {name}.float()")
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise DTypeError(
                f"{where}: {name} is {tensor.layout} on {tensor.device}, the kernels take dense tensors on the CPU; "
                f"call {name}.to_dense().cpu()"
            )


def require_last(where: str, x: Tensor, in_features: int) -> None:
    """x is (..., in_features)."""
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ShapeError(f"{where}: x has shape {tuple(x.shape)}, its last dimension must be in_features={in_features}")


def require_bias(where: str, bias: Tensor | None, out_features: int) -> None:
    """bias is (out_features) or None."""
    if bias is not None and tuple(bias.shape) != (out_features,):
        raise ShapeError(
            f"{where}: bias has shape {tuple(bias.shape)}, it must be ({out_features},), one for each output feature"
        )


def csr_index(
    where: str, columns: Tensor, row_offsets: Tensor, entries: int, out_features: int
) -> tuple[Tensor, Tensor]:
    """Columns as int32 and row offsets as int64, contiguous; lengths and types checked here, the contents natively."""
    for name, tensor, length in (("columns", columns, entries), ("row_offsets", row_offsets, out_features + 1)):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise DTypeError(f"{where}: {name} is {tensor.dtype}; it must be int32 or int64")
        if tuple(tensor.shape) != (length,):
            raise ShapeError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, it must be ({length},) for {entries} values "
                f"and out_features={out_features}"
            )
    if columns.dtype == torch.int64 and columns.numel() and int(columns.abs().max()) > 2**31 - 1:
        raise ShapeError(f"{where}: column {int(columns.abs().max())} is beyond any layer")
    return columns.to(torch.int32).contiguous(), row_offsets.to(torch.int64).contiguous()


def require_csr(where: str, columns: Tensor, row_offsets: Tensor, entries: int, in_features: int) -> None:
    """The contents of compressed rows, for the path in torch: the native path checks the same in C++."""
    if int(row_offsets[0]) != 0 or int(row_offsets[-1]) != entries or bool((row_offsets.diff() < 0).any()):
        raise ShapeError(f"{where}: row offsets must start at 0, never fall, and end at {entries} values")
    if entries and (int(columns.min()) < 0 or int(columns.max()) >= in_features):
        raise ShapeError(
            f"{where}: columns span [{int(columns.min())}, {int(columns.max())}], outside [0, {in_features})"
        )
