"""`sparse-bitmask`: the kept values, one bit for each entry, and where each row's values begin."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.core.registry import method
from rarefy.core.shapes import Bits, Bool, Int
from rarefy.core.sparse import SparseTensor
from rarefy.formats.packed import VALUE_TYPES, Packed, by_parts, matrix_shape

PARTS = ("shape", "compressed", "bitmask", "row_offsets")
_LARGEST = 2**48  # entries; far above any model, far below what overflows when multiplied by an item's size


@method("sparse-bitmask", role="format", source="Neural Magic 2024, compressed-tensors 0.14.0.1, sparse_bitmask.py")
@dataclass(frozen=True)
class Bitmask:
    """Values in row-major order, a bit for each entry (least significant first), exclusive row offsets.

    Bits per weight: d b + 1 + 64 / C for density d, b-bit values and C columns.
    Differs: a tensor of rank 3 or 4 can also be cut by its first axis (`docs/formats.md`), because the peer's cut
    along the last axis costs a 3x3 convolution 24 bits a weight for its offsets alone.

    >>> import torch
    >>> t = SparseTensor.from_dense(torch.tensor([[0.0, 1.5, 0.0], [4.0, 0.0, 0.0]]))
    >>> Bitmask().pack(t)["row_offsets"]
    tensor([0, 1])
    """

    def fits(self, mask: Bool[Tensor, "..."]) -> str | None:
        return None if mask.dim() == 2 else f"sparse-bitmask: holds matrices (out, in), not rank {mask.dim()}"

    def pack(self, tensor: SparseTensor) -> dict[str, Tensor]:
        return pack(Packed(tensor.shape, tensor))

    def unpack(self, parts: Mapping[str, Tensor]) -> SparseTensor:
        return unpack(parts).matrix


def pack(tensor: Packed) -> dict[str, Tensor]:
    """The four tensors of `PARTS`. The bitmask and the offsets keep the axes that the tensor was cut behind."""
    shape, matrix = tensor.shape, tensor.matrix
    lead, width = _lead(shape, by_row=tensor.by_row), matrix.bits.shape[1]
    counts = popcount(matrix.bits).reshape(lead)
    return {
        "shape": torch.tensor(shape, dtype=torch.int64),
        "compressed": matrix.values.contiguous(),
        "bitmask": matrix.bits.reshape(*lead, width).contiguous(),
        # along axis 0 only, as the peer does; for rank > 2 cut along the last axis they are of no use to a reader
        "row_offsets": _begins(counts).contiguous(),
    }


def unpack(parts: Mapping[str, Tensor], name: str = "sparse-bitmask") -> Packed:
    """Checks every count, bound and offset against the others, then gives the tensor. Expands nothing.

    Raises FileError that names the tensor.
    """
    shape = _dense_shape(parts, name)
    bits, values = parts["bitmask"], parts["compressed"]
    _require(values.dtype in VALUE_TYPES, name, f"values of type {values.dtype} are not supported")
    _require(bits.dtype == torch.uint8, name, f"the bitmask is {bits.dtype}, not uint8")
    _require(values.dim() == 1, name, f"the values have rank {values.dim()}, not 1")
    by_row = _is_cut_by_row(shape, bits, name)
    rows, n = matrix_shape(shape, by_row=by_row)
    offsets = parts["row_offsets"]
    _require(offsets.dtype == torch.int64, name, f"its row offsets are {offsets.dtype}, not int64")
    # before anything is counted: rows without columns cost no byte in the bitmask, so only this bounds them
    _require(offsets.numel() == rows, name, f"it has {offsets.numel()} row offsets for {rows} rows")
    bits = bits.reshape(rows, (n + 7) // 8)
    _require(not n % 8 or not (bits[:, -1] >> (n % 8)).any(), name, "padding bits of the bitmask are set")
    counts = popcount(bits)
    held = int(counts.sum())
    _require(held == values.numel(), name, f"the bitmask marks {held} entries but {values.numel()} values are stored")
    if by_row:  # the offsets of the peer's cut of higher ranks are not usable
        _require(
            torch.equal(offsets.reshape(-1), _begins(counts)), name, "its row offsets do not agree with its bitmask"
        )
    return Packed(shape, SparseTensor((rows, n), values, bits), by_row)


def popcount(bits: Bits) -> Int[Tensor, "rows"]:
    """Set bits in each row, `(rows,)` int64. A few rows at a time, so that a check takes less memory than the file."""
    return torch.cat([_count(rows) for rows in by_parts(bits)])


def _begins(counts: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Sums of what comes before, along axis 0."""
    return counts.cumsum(0) - counts


def _count(bits: Bits) -> Int[Tensor, "rows"]:
    """Sums of neighbouring bits, pairs and fours inside each byte; a long row by parts too."""
    if bits.shape[1] > 2**16:
        return torch.stack([_count(part) for part in bits.split(2**16, 1)]).sum(0)
    pairs = bits - ((bits >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return ((fours + (fours >> 4)) & 0x0F).sum(dim=1, dtype=torch.int64)


def _dense_shape(parts: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    absent = [part for part in PARTS if part not in parts]
    _require(not absent, name, f"the parts {absent} are missing")
    shape = parts["shape"]
    _require(shape.dtype == torch.int64, name, f"its shape is {shape.dtype}, not int64")
    _require(shape.dim() == 1 and shape.numel() <= 8, name, f"its shape is stored as {tuple(shape.shape)}")
    sizes = tuple(int(size) for size in shape)
    _require(all(size >= 0 for size in sizes), name, f"its shape {sizes} has a negative size")
    _require(math.prod(max(1, size) for size in sizes) <= _LARGEST, name, f"its shape {sizes} is too large")
    return sizes


def _lead(shape: tuple[int, ...], *, by_row: bool) -> tuple[int, ...]:
    """The axes before the cut; a vector has none."""
    lead = shape[:-1]
    return lead[:1] if by_row else lead


def _is_cut_by_row(shape: tuple[int, ...], bits: Tensor, name: str) -> bool:
    """Which of the two cuts the bitmask was made with; they cannot be confused, its rank tells."""
    found = tuple(bits.shape)
    for by_row in (True, False):
        n = matrix_shape(shape, by_row=by_row)[1]
        if found == (*_lead(shape, by_row=by_row), (n + 7) // 8):
            return by_row
    raise _bad(name, f"a bitmask of shape {found} does not belong to a tensor of shape {shape}")


def _bad(name: str, why: str) -> FileError:
    return FileError(
        f"tensor {name!r}: {why}; the file is damaged or was not written by a correct program, get it again"
    )


def _require(holds: bool | Tensor, name: str, why: str) -> None:
    if not holds:
        raise _bad(name, why)
