"""`sparse-24-bitmask`: two values of every four, and one bit for each entry that says which two."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.bits import pack_bits
from rarefy.core.errors import FileError
from rarefy.core.registry import method
from rarefy.core.shapes import Bits, Bool
from rarefy.core.sparse import SparseTensor
from rarefy.core.topk import keep_top
from rarefy.formats.packed import VALUE_TYPES, Packed, as_integers, by_parts

PARTS = ("shape", "compressed", "bitmask")
_LARGEST = 2**48


@method(
    "sparse-24-bitmask", role="format", source="Neural Magic 2024, compressed-tensors 0.14.0.1, sparse_24_bitmask.py"
)
@dataclass(frozen=True)
class Bitmask24:
    """Kept values `(out, in / 2)`, left to right, and a bit for each entry, least significant first.

    Bits per weight: b / 2 + 1. Groups of four are aligned and lie along a row.
    Differs: the peer prunes what is not 2:4 to the two largest of each four without a word (and ranks fp8 by its raw
    bytes); here such a tensor does not fit. A group with fewer than two kept entries is filled up with the zeros of the
    lowest index, where the peer leaves the choice to `torch.topk`.

    >>> t = SparseTensor.from_dense(torch.tensor([[1.0, -3.0, 0.0, 0.0]]))
    >>> Bitmask24().pack(t)["bitmask"]
    tensor([[3]], dtype=torch.uint8)
    """

    def fits(self, mask: Bool[Tensor, "..."]) -> str | None:
        if mask.dim() != 2:
            return f"sparse-24-bitmask: holds matrices (out, in), not rank {mask.dim()}"
        if mask.shape[1] % 4:
            return f"sparse-24-bitmask: {mask.shape[1]} columns are not a multiple of 4"
        crowded = mask.reshape(-1, 4).sum(1) > 2
        if crowded.any():
            row, group = divmod(int(crowded.nonzero()[0]), mask.shape[1] // 4)
            where = f"row {row}, columns {4 * group} to {4 * group + 3}"
            return f"sparse-24-bitmask: more than two of four are kept in {where}"
        return None

    def pack(self, tensor: SparseTensor) -> dict[str, Tensor]:
        mask = tensor.mask
        if (why := self.fits(mask)) is not None:
            raise FileError(f"{why}; prune the tensor with pattern='2:4' first, or write it as sparse-bitmask")
        kept = keep_top(mask.reshape(-1, 4).float(), 2).reshape(mask.shape)
        values = as_integers(Packed(tensor.shape, tensor).to_dense())[kept]
        rows, n = tensor.shape
        return {
            "shape": torch.tensor([[rows], [n]], dtype=torch.int64),
            "compressed": values.view(tensor.values.dtype).reshape(rows, n // 2),
            "bitmask": pack_bits(kept),
        }

    def unpack(self, parts: Mapping[str, Tensor]) -> SparseTensor:
        return unpack(parts).matrix


def unpack(parts: Mapping[str, Tensor], name: str = "sparse-24-bitmask") -> Packed:
    """Checks every count and bit against the others, then gives the tensor. Raises FileError that names it."""
    absent = [part for part in PARTS if part not in parts]
    _require(not absent, name, f"the parts {absent} are missing")
    shape, values, bits = (parts[part] for part in PARTS)
    _require(shape.dtype == torch.int64 and shape.numel() == 2, name, f"its shape is stored as {tuple(shape.shape)}")
    rows, n = (int(size) for size in shape.reshape(-1))
    sane = rows >= 0 and n >= 0 and max(1, rows) * max(1, n) <= _LARGEST
    _require(sane, name, f"({rows}, {n}) is no size")
    _require(n % 4 == 0, name, f"{n} columns are not a multiple of 4")
    _require(values.dtype in VALUE_TYPES, name, f"values of type {values.dtype} are not supported")
    _require(tuple(values.shape) == (rows, n // 2), name, f"{tuple(values.shape)} values do not fit ({rows}, {n})")
    _require(bits.dtype == torch.uint8, name, f"the bitmask is {bits.dtype}, not uint8")
    fits = tuple(bits.shape) == (rows, (n + 7) // 8)
    _require(fits, name, f"a bitmask of shape {tuple(bits.shape)} does not fit ({rows}, {n})")
    _require(_two_of_four(bits, n), name, "its bitmask does not keep exactly two of every four entries")
    return Packed((rows, n), SparseTensor((rows, n), values.reshape(-1), bits))


def _two_of_four(bits: Bits, n: int) -> bool:
    """Whether each half byte has two bits, and the last one none where the row ends before it."""
    if not bits.numel():
        return True
    last = 0x02 if n % 8 else 0x22
    for rows in by_parts(bits):
        pairs = rows - ((rows >> 1) & 0x55)
        fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
        if bool((fours[:, :-1] != 0x22).any()) or bool((fours[:, -1] != last).any()):
            return False
    return True


def _require(holds: bool | Tensor, name: str, why: str) -> None:
    if not holds:
        raise FileError(
            f"tensor {name!r}: {why}; the file is damaged or was not written by a correct program, get it again"
        )
