"""What a native decoder demands of the tensors of a call: checked once a binding, before their addresses are taken."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError

_WHERE = "decoder"
PANEL = 16  # keys in a panel; capacities are multiples of it

Expected = tuple[Tensor | None, torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """width: of the residual stream; depth: of one head."""

    width: int
    heads: int
    kv_heads: int
    depth: int


@dataclass(frozen=True)
class Seen:
    """What the sizes of a call's tensors follow from."""

    sizes: Sizes
    layers: int
    vocabulary: int
    batch: int
    tokens: int
    capacity: int
    last_only: bool


def require_tensors(**expected: Expected) -> None:
    """name=(tensor or None, type, shape): each tensor is dense on the CPU, contiguous, of that type and shape."""
    for name, (tensor, dtype, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.dtype != dtype or tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_neg():
            raise DTypeError(
                f"{_WHERE}: {name} is {tensor.dtype}, {tensor.layout} on {tensor.device}; it must be {dtype}"
            )
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


def require_step(seen: Seen, ids: Tensor, positions: Tensor, keys: Tensor, values: Tensor, logits: Tensor) -> None:
    """The tensors of every step have the model's sizes. Their contents are checked natively, at every call."""
    each, depth = (seen.layers, seen.batch, seen.sizes.kv_heads), seen.sizes.depth
    require_tensors(
        ids=(ids, torch.int64, (seen.batch, seen.tokens)),
        positions=(positions, torch.int64, (seen.batch, seen.tokens)),
        keys=(keys, torch.float32, (*each, seen.capacity // PANEL, depth, PANEL)),
        values=(values, torch.float32, (*each, seen.capacity, depth)),
        logits=(logits, torch.float32, (seen.batch, 1 if seen.last_only else seen.tokens, seen.vocabulary)),
    )


def require_options(
    seen: Seen,
    rotary: tuple[Tensor, Tensor] | None,
    allowed: Tensor | None,
    first: Tensor | None,
    nanoseconds: Tensor | None,
    parts: int,
) -> None:
    """So have those that some steps have."""
    require_tensors(
        allowed=(allowed, torch.uint8, (seen.batch, seen.capacity)),
        first=(first, torch.int32, (seen.batch,)),
        nanoseconds=(nanoseconds, torch.int64, (parts,)),
    )
    if rotary is not None:
        turns = (rotary[0].shape[0] if rotary[0].dim() else 0, seen.sizes.depth // 2)
        require_tensors(cosine=(rotary[0], torch.float32, turns), sine=(rotary[1], torch.float32, turns))
