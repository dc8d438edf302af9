"""What a native decoder demands of the tensors of a call: checked once a binding, before their addresses are taken."""

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError

_WHERE = "decoder"
Expected = tuple[Tensor | None, torch.dtype, tuple[int, ...]]


def require_tensors(**expected: Expected) -> None:
    """name=(tensor or None, type, shape): each tensor is dense on the CPU, contiguous, of that type and shape."""
    for name, (tensor, dtype, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.dtype != dtype or tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_neg():
            raise DTypeError(f"{_WHERE}: {name} is {tensor.dtype}, {tensor.layout} on {tensor.device}; it must be {dtype}")
        if tuple(tensor.shape) != shape or not tensor.is_contiguous():
            raise ShapeError(
                f"{_WHERE}: {name} has shape {tuple(tensor.shape)} and strides {tensor.stride()}; it must be {shape}, "
                "contiguous"
            )


def require_table(name: str, table: Tensor, width: int) -> None:
    """A contiguous float table (any number of rows, width)."""
    if table.dim() != 2:
        raise ShapeError(f"{_WHERE}: {name} has shape {tuple(table.shape)}, it must be (rows, {width})")
    require_tensors(**{name: (table, torch.float32, (table.shape[0], width))})
