"""A tensor of any rank whose zeros are not stored: the matrix of its kept entries and the shape it came from."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.bits import pack_bits, unpack_bits
from rarefy.core.errors import DTypeError
from rarefy.core.sparse import SparseTensor

_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

VALUE_TYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    }
)
"""The types whose zeros can be left out."""

_PART = 2**16  # bytes that are looked at together; counting their bits takes nine times as many


def as_integers(tensor: Tensor) -> Tensor:
    """The same bytes as integers of the same size: every type gathers alike, and NaN payloads survive."""
    return tensor.contiguous().view(_INTEGER_OF_SIZE[tensor.element_size()])


def matrix_shape(shape: tuple[int, ...], *, by_row: bool) -> tuple[int, int]:
    """How a tensor is cut into the rows of the bitmask.

    by_row: one row for each entry of axis 0, `(s0, s1 * s2 * ...)`; otherwise one for each run of the last axis,
    `(s0 * s1 * ..., s_last)`. The two agree for a matrix; a vector is one row, a scalar `(1, 1)`.
    """
    if len(shape) < 2:
        return 1, math.prod(shape)
    cut = 1 if by_row else -1
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def rows_at_once(width: int) -> int:
    """As many rows of so many bytes as 2**16 hold, at least one: checks by parts so take little memory."""
    return max(1, _PART // max(1, width))


def by_parts(bits: Tensor) -> tuple[Tensor, ...]:
    """All rows of a bitmask, a few at a time."""
    return bits.split(rows_at_once(bits.shape[1]))


@dataclass(frozen=True)
class Packed:
    """A stored sparse tensor. shape: of the dense tensor; matrix: its entries, cut as `matrix_shape(by_row)` says."""

    shape: tuple[int, ...]
    matrix: SparseTensor
    by_row: bool = True

    @classmethod
    def from_dense(cls, tensor: Tensor, *, by_row: bool = True) -> "Packed":
        """Keeps the entries that differ from zero; -0.0 counts as zero, NaN and infinity are kept."""
        if tensor.dtype not in VALUE_TYPES:
            raise DTypeError(f"Packed.from_dense: {tensor.dtype} has no zeros to leave out; store the tensor dense")
        shape = tuple(tensor.shape)
        cut = tensor.detach().reshape(matrix_shape(shape, by_row=by_row))
        mask = cut.ne(0)
        values = as_integers(cut)[mask].view(tensor.dtype)
        return cls(shape, SparseTensor((cut.shape[0], cut.shape[1]), values, pack_bits(mask)), by_row)

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.values.dtype

    def to_dense(self) -> Tensor:
        """The dense tensor with exact zeros."""
        values = self.matrix.values
        dense = torch.zeros(self.matrix.shape, dtype=_INTEGER_OF_SIZE[values.element_size()])
        left, below = as_integers(values), dense
        for bits in by_parts(self.matrix.bits):
            mask = unpack_bits(bits, self.matrix.shape[1])
            count = int(mask.count_nonzero())
            below[: len(bits)][mask] = left[:count]
            left, below = left[count:], below[len(bits) :]
        return dense.view(values.dtype).reshape(self.shape)
