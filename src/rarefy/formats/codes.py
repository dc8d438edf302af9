"""`codes`: a weight as small integers with scales, groups of zeros left out. What `rarefy.save` writes for a layer that
lies on a grid (`core.grid`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.bits import pack_bits
from rarefy.core.errors import FileError
from rarefy.core.quantized import QuantizedWeight
from rarefy.formats.bitmask import popcount
from rarefy.formats.code_parts import Parts

PARTS = ("codes", "scale", "present", "form")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SHORT = (torch.bfloat16, torch.float16)
UNITS = (0, 1, 16)  # integers that are left out together where all are zero; 0: none is
_HEAD = 6  # numbers in `form` before the tensor's own shape
_LARGEST = 2**48
_AT_ONCE = 16  # integers that a byte may stand for so that all of them are looked at when a file is read
_WIDEST = 2**22  # integers of a row: what a check takes at a time


@dataclass(frozen=True, eq=False)
class Codes:
    """A stored weight. shape, dtype: of the dense tensor, whose rows are those of `quantized`, or its columns where it
    is transposed; source: the integers, or where they lie in a file, where zeros take no room."""

    shape: tuple[int, ...]
    source: QuantizedWeight | Parts
    transposed: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def quantized(self) -> QuantizedWeight:
        return self.source if isinstance(self.source, QuantizedWeight) else self.source.quantized()

    def to_dense(self) -> Tensor:
        """The weight that the integers stand for."""
        dense = self.quantized.dequantize()
        return (dense.t().contiguous() if self.transposed else dense).reshape(self.shape).to(self.dtype)


def code_bytes(rows: int, width: int, kept: int, unit: int, scales: int, bits: int, scale_bytes: int = 2) -> int:
    """Bytes of the four parts. kept: units that are there; scales: that are stored.

    ceil(kept * max(1, unit) * bits / 8) + scale_bytes * scales + a bit a unit and row, + `form`.
    """
    present = 0 if unit == 0 else rows * ((math.ceil(width / unit) + 7) // 8)
    held = rows * width if unit == 0 else kept * unit
    return (held * bits + 7) // 8 + scale_bytes * scales + present + 8 * (_HEAD + 2)


def pack(stored: Codes) -> dict[str, Tensor]:
    """The four tensors of `PARTS`, with the unit that takes the fewest bytes.

    codes: uint8, one integer a byte or two (the first low), of the units that are there, in row-major order; scale:
    bfloat16 or float16 where that is exact, else float32, of the groups that are not all zero; present: a bit a unit,
    rows apart; form: bits, unit, groups, transposed, type, rows, then the shape.
    """
    q = stored.quantized
    unit = min(UNITS, key=lambda u: _size(q, u))
    values = q.values if unit == 0 else _units(q.values, unit)[_present(q.values, unit)]
    scale = q.scale[_full(q)]
    head = [q.bits, unit, q.groups, int(stored.transposed), _DTYPES.index(stored.dtype), q.shape[0]]
    return {
        "codes": _narrow(values.reshape(-1), q.bits),
        "scale": next((s for s in map(scale.to, _SHORT) if torch.equal(s.float(), scale)), scale.clone()),
        "present": torch.empty(0, dtype=torch.uint8) if unit == 0 else pack_bits(_present(q.values, unit)),
        "form": torch.tensor([*head, *stored.shape], dtype=torch.int64),
    }


def stored_bytes(quantized: QuantizedWeight) -> int:
    """What `pack` takes for a matrix with scales of two bytes."""
    return min(_size(quantized, unit) for unit in UNITS)


def _size(q: QuantizedWeight, unit: int) -> int:
    kept = int(_present(q.values, max(1, unit)).sum())
    return code_bytes(*q.shape, kept, unit, int(_full(q).sum()), q.bits)


def _full(q: QuantizedWeight) -> Tensor:
    """Groups (out, groups) with anything in them."""
    rows, width = q.shape
    return q.values.reshape(rows, q.groups, width // q.groups).ne(0).any(-1) if width else q.scale.ne(q.scale)


def _units(values: Tensor, unit: int) -> Tensor:
    """(rows, units, unit), the last unit filled up with zeros."""
    rows, width = values.shape
    return torch.nn.functional.pad(values, (0, -width % unit)).reshape(rows, -(-width // unit), unit)


def _present(values: Tensor, unit: int) -> Tensor:
    return _units(values, unit).ne(0).any(-1)


def _narrow(values: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return values.view(torch.uint8).clone()
    low, high = (torch.nn.functional.pad(values, (0, values.numel() % 2)) & 15).view(torch.uint8).view(-1, 2).unbind(1)
    return (low | (high << 4)).contiguous()


def unpack(parts: Mapping[str, Tensor], name: str = "codes") -> Codes:
    """Checks every count and bound, then gives the weight. Raises FileError that names the tensor."""
    _require(all(part in parts for part in PARTS), name, "parts of it are missing")
    form, held, scale, present = (parts[part] for part in ("form", "codes", "scale", "present"))
    _require(form.dtype == torch.int64 and form.dim() == 1 and _HEAD + 2 <= form.numel() <= _HEAD + 8, name, "bad form")
    bits, unit, groups, transposed, kind, rows = (int(v) for v in form[:_HEAD])
    shape = tuple(int(v) for v in form[_HEAD:])
    size = math.prod(shape)
    sane = bits in (4, 8) and unit in UNITS and transposed in (0, 1) and 0 <= kind < len(_DTYPES)
    _require(sane and min(shape) >= 0 and size <= _LARGEST, name, f"its form {form.tolist()} makes no sense")
    _require(rows == shape[1 if transposed else 0] and not (transposed and len(shape) != 2), name, "its rows differ")
    width = shape[0] if transposed else math.prod(shape[1:])
    fits = rows * width == size and width <= _WIDEST and (bool(size) or max(shape) <= _WIDEST)
    _require(fits, name, f"its shape {shape} is too large")
    _require(1 <= groups <= max(1, width) and width % groups == 0, name, f"{groups} scales a row do not fit")
    _check_present(present, rows, width, unit, name)
    count = rows * width if unit == 0 else int(popcount(present).sum()) * unit if present.numel() else 0
    right = held.dtype == torch.uint8 and held.dim() == 1 and held.numel() == (count * bits + 7) // 8
    _require(right, name, f"{held.numel()} bytes are no {count} integers of {bits} bits")
    _require(_in_range(held, bits), name, f"an integer is below -{2 ** (bits - 1) - 1}")
    found = Parts(rows, width, bits, unit, groups, held, scale, present, name)
    _check_scale(found, name)
    return Codes(shape, found, bool(transposed), _DTYPES[kind])


def _check_present(present: Tensor, rows: int, width: int, unit: int, name: str) -> None:
    if unit == 0:
        _require(present.numel() == 0, name, "bits are stored where all integers are")
        return
    units = -(-width // unit)
    right = present.dtype == torch.uint8 and tuple(present.shape) == (rows, (units + 7) // 8)
    _require(right, name, f"bits of shape {tuple(present.shape)} do not fit {rows} x {units} units")
    _require(not units % 8 or not (present[:, -1] >> (units % 8)).any(), name, "padding bits are set")


def _in_range(held: Tensor, bits: int) -> bool:
    """Whether no integer is the least of its bits, whose negative does not exist."""
    if bits == 8:
        return not bool((held == 0x80).any())
    return not bool(((held & 0x0F) == 0x08).any() or ((held & 0xF0) == 0x80).any())


def _check_scale(parts: Parts, name: str) -> None:
    scale = parts.scale
    known = scale.dtype in (*_SHORT, torch.float32) and scale.dim() == 1
    _require(known and scale.numel() <= parts.rows * parts.groups, name, f"scales of shape {tuple(scale.shape)}")
    _require(bool((scale.float() > 0).all() and scale.float().isfinite().all()), name, "a scale is not positive")
    held = scale.numel() + parts.held.numel() + parts.present.numel()
    if parts.rows * parts.width <= _AT_ONCE * held + 2**24:
        parts.check()  # else when it is expanded: counting what a small file claims would take too long


def _require(holds: bool | Tensor, name: str, why: str) -> None:
    if not holds:
        raise FileError(
            f"tensor {name!r}: {why}; the file is damaged or was not written by a correct program, get it again"
        )
