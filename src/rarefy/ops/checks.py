"""What an operation demands of its tensors, said before any address is handed to native code."""

from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError
from rarefy.core.quantized import InputScale, QuantizedWeight

LARGEST = (2**31 - 1) // 64  # features; beyond, 32-bit counts of bytes could overflow in the kernels


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
        if tensor.is_neg():  # a view of a conjugate: the memory holds the opposite
            raise DTypeError(f"{where}: {name} is a negated view of a complex tensor; call {name}.resolve_neg()")


def require_quantized(where: str, weight: QuantizedWeight) -> None:
    """Dense tensors on the CPU, integers that the bits hold, scales that are positive."""
    for name, tensor in (("values", weight.values), ("scale", weight.scale)):
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise DTypeError(
                f"{where}: weight.{name} is {tensor.layout} on {tensor.device}; quantize a dense CPU weight"
            )
    low, high = (int(end) for end in weight.values.aminmax()) if weight.values.numel() else (0, 0)
    most = weight.largest
    if low < -most or high > most:
        raise ShapeError(
            f"{where}: weight.values span [{low}, {high}], but {weight.bits} bits hold [-{most}, {most}]; "
            "round with quantize_weight()"
        )
    if not bool((weight.scale.isfinite() & (weight.scale > 0)).all()):
        raise ShapeError(f"{where}: weight.scale holds what is not positive and finite; round with quantize_weight()")


def require_input_scale(where: str, input_scale: tuple[Any, ...] | None) -> None:
    """(scale, zero point) of 8-bit inputs, perhaps with factors: positive float32, and a byte."""
    if input_scale is None:
        return
    scale, zero, factors = InputScale(*input_scale)
    if not all(map(_positive, factors)):
        raise ShapeError(f"{where}: the factors of input_scale must be positive float32, one an input")
    if not (_positive(scale) and 0 <= zero <= 255):
        raise ShapeError(
            f"{where}: input_scale is ({scale}, {zero}); it must be a positive float32 and a zero point in [0, 255]"
        )


def _positive(value: float) -> bool:
    return torch.finfo(torch.float32).tiny <= value <= torch.finfo(torch.float32).max


def require_size(where: str, name: str, size: int) -> None:
    """A number of features that the kernels can count."""
    if not 0 <= size <= LARGEST:
        raise ShapeError(f"{where}: {name} is {size}; it must be in [0, {LARGEST}]")


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
    if columns.dtype == torch.int64 and columns.numel():  # not by abs(): the smallest integer has none
        low, high = (int(end) for end in columns.aminmax())
        if low < 0 or high > 2**31 - 1:
            raise ShapeError(f"{where}: columns span [{low}, {high}], beyond any layer")
    return columns.to(torch.int32).contiguous(), row_offsets.to(torch.int64).contiguous()


def require_csr(where: str, columns: Tensor, row_offsets: Tensor, entries: int, in_features: int) -> None:
    """The contents of compressed rows, for the path in torch: the native path checks the same in C++."""
    if int(row_offsets[0]) != 0 or int(row_offsets[-1]) != entries or bool((row_offsets.diff() < 0).any()):
        raise ShapeError(f"{where}: row offsets must start at 0, never fall, and end at {entries} values")
    if entries and (int(columns.min()) < 0 or int(columns.max()) >= in_features):
        raise ShapeError(
            f"{where}: columns span [{int(columns.min())}, {int(columns.max())}], outside [0, {in_features})"
        )
