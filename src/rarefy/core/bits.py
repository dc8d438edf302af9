"""Masks as bits: eight entries a byte, least significant bit first, each row padded with zero bits."""

import torch
from torch import Tensor

from rarefy.core.shapes import Bits, Bool

_WEIGHTS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def pack_bits(mask: Bool[Tensor, "rows n"]) -> Bits:
    """Bits of a mask, `(rows, ceil(n / 8))` uint8. Bit j of byte k of a row is entry `8 k + j`."""
    rows, n = mask.shape
    padded = torch.zeros(rows, (n + 7) // 8 * 8, dtype=torch.uint8)
    padded[:, :n] = mask
    return (padded.view(rows, (n + 7) // 8, 8) * _WEIGHTS).sum(dim=2, dtype=torch.uint8)


def unpack_bits(bits: Bits, n: int) -> Bool[Tensor, "rows n"]:
    """The mask `(rows, n)` of packed bits; padding bits beyond `n` are dropped (see `padding_is_clear`)."""
    return (bits.unsqueeze(2) & _WEIGHTS).ne(0).flatten(1)[:, :n]


def padding_is_clear(bits: Bits, n: int) -> bool:
    """Whether every bit beyond column `n` is zero, as a well-formed file has it."""
    full = (bits.unsqueeze(2) & _WEIGHTS).ne(0).flatten(1)
    return not bool(full[:, n:].any())
