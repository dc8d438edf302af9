"""2:4 matrices as the pair (values, meta) of CUTLASS kernels, in both orders of `meta` that exist."""

from typing import Literal

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, FileError, ShapeError
from rarefy.core.shapes import Int

Order = Literal["torch", "compressed-tensors"]
ORDERS = ("torch", "compressed-tensors")
_CODES = {0b0011: 4, 0b0101: 8, 0b0110: 9, 0b1001: 12, 0b1010: 13, 0b1100: 14, 0: 14, 1: 8, 2: 9, 4: 14, 8: 14}
"""{which of four are kept, first = bit 0: index of the first of two slots + 4 * index of the second}."""
_TABLE = torch.tensor([_CODES.get(kept, 0) for kept in range(16)])  # 0: more than two are kept


def to_pair(weight: Tensor, order: Order = "torch") -> tuple[Tensor, Tensor]:
    """(values `(out, in / 2)`, meta) of a 2:4 matrix; of float32 one of every two must be zero.

    meta: int16 `(out, in / 16)` (float32: `in / 8`), for int8 int32 `(out, in / 32)`. `torch` is what
    `SparseSemiStructuredTensorCUTLASS` holds; `compressed-tensors` what marlin-24 files hold. Raises ShapeError or
    DTypeError; nothing is ever pruned to fit.
    Source: torch 2.13 `sparse/_semi_structured_conversions.py`; compressed-tensors 0.14.0.1
    `utils/semi_structured_conversions.py`. Differs: both take the first two of a group that has more.
    """
    of, slots, kind = _form(weight.dtype)
    if weight.dim() != 2:
        raise ShapeError(f"to_pair: a matrix (out, in) is needed, not rank {weight.dim()}")
    rows, n = weight.shape
    step = _step(of * slots, kind, order)
    if rows % step[0] or n % step[1]:
        raise ShapeError(f"semi-structured: ({rows}, {n}) is not a multiple of {step}, which {order!r} needs")
    kept = weight.ne(0).reshape(rows, n // of, of)
    if of == 2:
        kept = kept.repeat_interleave(2, -1)  # float32 counts as two halves that come and go together
    codes = _TABLE[(kept * torch.tensor([1, 2, 4, 8])).sum(-1)]
    crowded = (codes == 0).reshape(-1)
    if bool(crowded.any()):
        group = int(crowded.nonzero()[0])
        raise ShapeError(f"to_pair: group {group} of {of} entries is not half zeros; prune with pattern='2:4' first")
    values = weight.reshape(rows, n // of, of).gather(-1, _places(codes, of)).reshape(rows, n // 2)
    packed = (codes.reshape(rows, -1, slots) << (4 * torch.arange(slots))).sum(-1).to(kind)
    meta = torch.empty(packed.numel(), dtype=kind)
    meta[_positions(packed.shape[0], packed.shape[1], kind, order)] = packed.reshape(-1)
    return values, meta.reshape(packed.shape)


def from_pair(values: Tensor, meta: Tensor, order: Order = "torch") -> Tensor:
    """The matrix `(out, in)` of a pair. Which order it is in cannot be seen from it. Raises FileError."""
    of, slots, kind = _form(values.dtype)
    step = _step(of * slots, kind, order)
    if values.dim() != 2 or values.shape[0] % step[0] or 2 * values.shape[1] % step[1]:
        raise _unfit(values, meta)
    rows, half = values.shape
    groups = 2 * half // of
    if meta.dtype != kind or tuple(meta.shape) != (rows, groups // slots):
        raise _unfit(values, meta)
    packed = meta.reshape(-1)[_positions(rows, groups // slots, kind, order)].reshape(rows, -1, 1).long()
    codes = (packed >> (4 * torch.arange(slots))).bitwise_and_(15).reshape(rows, groups)
    if not bool(torch.isin(codes, torch.tensor(sorted({4, 8, 9, 12, 13, 14}))).all()):
        raise FileError("from_pair: meta holds codes that no program writes; it is damaged, or in another form")
    dense = torch.zeros(rows, groups, of, dtype=values.dtype)
    return dense.scatter_(-1, _places(codes, of), values.reshape(rows, groups, -1)).reshape(rows, 2 * half)


def _form(dtype: torch.dtype) -> tuple[int, int, torch.dtype]:
    """(entries of a group, groups to a number of meta, type of meta)"""
    if dtype == torch.int8:
        return 4, 8, torch.int32
    if dtype in (torch.float16, torch.bfloat16, torch.float32):
        return (2 if dtype == torch.float32 else 4), 4, torch.int16
    raise DTypeError(f"semi-structured: {dtype} has no such form; convert it to float16, bfloat16, float32 or int8")


def _places(codes: Tensor, of: int) -> Tensor:
    """(..., kept entries of a group): which of the group they are. Both halves of a float32 are kept, or none."""
    return torch.stack([codes & 3, codes >> 2], -1) if of == 4 else (codes >> 1 & 1).unsqueeze(-1)


def _step(columns: int, kind: torch.dtype, order: str) -> tuple[int, int]:
    """What rows and columns are multiples of; columns: of one number of meta, which are interleaved two by two."""
    if order not in ORDERS:
        raise ShapeError(f"semi-structured: there is no order {order!r}; choose from {ORDERS}")
    return 64 if order == "compressed-tensors" else 32 if kind == torch.int16 else 16, 2 * columns


def _unfit(values: Tensor, meta: Tensor) -> FileError:
    shapes = f"values {tuple(values.shape)} and meta {tuple(meta.shape)} {meta.dtype}"
    return FileError(f"from_pair: {shapes} do not fit")


def _positions(rows: int, columns: int, kind: torch.dtype, order: str) -> Int[Tensor, "entries"]:
    """Where each number of meta goes, row by row: rows are shuffled, 2 x 2 blocks turned, column pairs interleaved."""
    row, column = torch.arange(rows).unsqueeze(1), torch.arange(columns).unsqueeze(0)
    if order == "torch":
        group, ways = (32, 4) if kind == torch.int16 else (16, 2)
        moved = row // group * group + row % 8 * ways + row % group // 8
    else:
        moved = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
    turn = ((moved % 2 == 0) & (column % 2 == 1)).long() - ((moved % 2 == 1) & (column % 2 == 0)).long()
    moved, column = moved + turn, column - turn
    return (column // 2 * (2 * rows) + moved * 2 + column % 2).reshape(-1)
