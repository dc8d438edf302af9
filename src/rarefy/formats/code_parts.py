"""Integers as they lie in a file: those of units that are there, expanded only when they are asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.bits import unpack_bits
from rarefy.core.errors import FileError
from rarefy.core.quantized import QuantizedWeight
from rarefy.formats.bitmask import popcount
from rarefy.formats.packed import rows_at_once


@dataclass(frozen=True, eq=False)
class Parts:
    """A weight (rows, width) of `bits` that was checked but not expanded: a small file can stand for many zeros.

    unit, held, scale, present: as `codes.pack` lays them out; groups: scales of a row.
    """

    rows: int
    width: int
    bits: int
    unit: int
    groups: int
    held: Tensor
    scale: Tensor
    present: Tensor
    name: str

    def quantized(self) -> QuantizedWeight:
        values = self.values(0, self.rows, 0)
        filled = _filled(values, self.groups)
        self.check(int(filled.sum()))
        scale = torch.ones(self.rows, self.groups)
        scale[filled] = self.scale.float()
        return QuantizedWeight(values, scale, self.bits)

    def check(self, filled: int | None = None) -> None:
        """Refuses scales that are not as many as groups with anything in them."""
        filled = self.filled() if filled is None else filled
        if self.scale.numel() != filled:
            raise FileError(
                f"tensor {self.name!r}: {self.scale.numel()} scales are stored for {filled} groups; the file is "
                "damaged or was not written by a correct program, get it again"
            )

    def values(self, begin: int, end: int, first: int) -> Tensor:
        """int8 (end - begin, width) of some rows, whose integers begin with the `first` that is stored."""
        if self.unit == 0:
            return self._stored(first, (end - begin) * self.width).reshape(end - begin, self.width)
        there = unpack_bits(self.present[begin:end], -(-self.width // self.unit))
        whole = torch.zeros(*there.shape, self.unit, dtype=torch.int8)
        whole[there] = self._stored(first, int(there.sum()) * self.unit).reshape(-1, self.unit)
        return whole.flatten(1)[:, : self.width].contiguous()

    def _stored(self, first: int, count: int) -> Tensor:
        if self.bits == 8:
            return self.held[first : first + count].view(torch.int8)
        end = first + count
        wide = _wide(self.held[first // 2 : (end + 1) // 2])
        return wide[first % 2 : len(wide) - end % 2]

    def filled(self) -> int:
        """Groups with anything in them, a few rows at a time."""
        count, first, at_once = 0, 0, rows_at_once(self.width)
        for begin in range(0, self.rows, at_once):
            end = min(self.rows, begin + at_once)
            values = self.values(begin, end, first)
            count += int(_filled(values, self.groups).sum())
            kept = popcount(self.present[begin:end]).sum() * self.unit if self.unit else values.numel()
            first += int(kept)
        return count


def _filled(values: Tensor, groups: int) -> Tensor:
    """(rows, groups) bool"""
    rows, width = values.shape
    return values.reshape(rows, groups, width // groups).ne(0).any(-1) if width else torch.zeros(rows, groups).bool()


def _wide(held: Tensor) -> Tensor:
    """int8 (twice as many) of what `codes.pack` made of integers of 4 bits."""
    pairs = torch.stack([held & 15, held >> 4], 1).reshape(-1).to(torch.int16)
    return torch.where(pairs > 7, pairs - 16, pairs).to(torch.int8)
