"""Integer and 8-bit float weights with their scales beside them, as compressed-tensors names them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.held import Held, dense, plain

_TYPES = frozenset({torch.int8, torch.float8_e4m3fn, torch.float8_e5m2})
_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})
_WIDE = _FLOATS | {torch.float64}
_ZEROS = _FLOATS | _TYPES | {torch.int32, torch.int64, torch.uint8}
_BESIDE = ("weight_scale", "weight_zero_point", "weight_g_idx", "input_scale", "input_zero_point")


@dataclass(frozen=True, eq=False)
class Scaled:
    """A weight `(out, in)` that is `(stored - zero) * scale`, in the type of the scale.

    stored: int8, float8_e4m3fn or float8_e5m2, dense or `Packed`; scale: of the tensor (1), of a row `(out, 1)`, of a
    group of columns `(out, groups)` or of a block `(out / b, in / b)`; zero: like scale, or None; group_of: `(in,)`,
    the group of each column where they are not in order; input_scale, input_zero: of the activations, as the file has
    them.

    Source: compressed-tensors 0.14.0.1, `quantization/lifecycle/forward.py`.
    """

    stored: Tensor | Held
    scale: Tensor
    zero: Tensor | None = None
    group_of: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype

    def to_dense(self) -> Tensor:
        """The weight that the stored numbers stand for; a stored zero without a zero point stays an exact zero."""
        wide = dense(self.stored).to(self.scale.dtype)
        if self.zero is not None:
            wide = wide - self._spread(self.zero.to(self.scale.dtype))
        return wide.mul_(self._spread(self.scale)) + 0.0

    def parts(self, name: str) -> dict[str, Tensor]:
        """The stored numbers, dense, and what lies beside them, by the names from which `fold` makes the same again."""
        module = name.removesuffix("weight")
        beside = (self.scale, self.zero, self.group_of, self.input_scale, self.input_zero)
        named = {module + part: value for part, value in zip(_BESIDE, beside, strict=True) if value is not None}
        return {name: dense(self.stored)} | named

    def _spread(self, value: Tensor) -> Tensor:
        """`value` for each entry, or in a shape that broadcasts."""
        if value.numel() == 1:
            return value.reshape(())
        if self.group_of is not None:
            return value[:, self.group_of.long()]
        out, width = self.shape
        rows = value if value.shape[0] == out else value.repeat_interleave(-(-out // value.shape[0]), 0)[:out]
        return rows if rows.shape[1] == 1 else rows.repeat_interleave(-(-width // rows.shape[1]), 1)[:, :width]


def fold(entries: Mapping[str, Tensor | Held]) -> dict[str, Tensor | Held]:
    """The entries with each quantised weight and the scales beside it as one `Scaled`. Raises FileError."""
    found = dict(entries)
    for name, stored in entries.items():
        module = name.removesuffix("weight")
        scale = entries.get(f"{module}weight_scale")
        if not name.endswith("weight") or scale is None or stored.dtype in _WIDE:
            continue
        if stored.dtype not in _TYPES:
            raise FileError(
                f"tensor {name!r}: {stored.dtype} with scales beside it is no layout that rarefy reads (int8, "
                "float8_e4m3fn and float8_e5m2 are); load it with the program that made it, dequantize it there, and "
                "save that"
            )
        beside = [entries.get(module + part) for part in _BESIDE]
        found[name] = _checked(name, stored, beside)
        for part in _BESIDE:
            found.pop(module + part, None)
    return found


def _checked(name: str, stored: Tensor | Held, beside: list[Tensor | Held | None]) -> Scaled:
    given = [None if part is None else plain(part, name) for part in beside]
    scale, zero, group_of, input_scale, input_zero = given
    shape = tuple(stored.shape)
    assert scale is not None
    _require(scale.dtype in _FLOATS, name, f"its scales are {scale.dtype}")
    _require(
        len(shape) == 2 or scale.numel() == 1, name, f"{tuple(scale.shape)} scales for a tensor of rank {len(shape)}"
    )
    fits = scale.numel() == 1 or (scale.dim() == 2 and _divides(tuple(scale.shape), shape))
    _require(fits, name, f"scales of shape {tuple(scale.shape)} do not fit {shape}")
    fits = zero is None or (zero.shape == scale.shape and zero.dtype in _ZEROS)
    _require(fits, name, "its zero points and its scales do not fit each other")
    if group_of is not None:
        whole = group_of.dtype in (torch.int32, torch.int64) and tuple(group_of.shape) == shape[1:] and scale.dim() == 2
        _require(whole, name, f"groups of columns of shape {tuple(group_of.shape)} do not fit {shape}")
        inside = not group_of.numel() or bool((group_of >= 0).all() and (group_of < scale.shape[1]).all())
        _require(inside, name, "a column belongs to a group that has no scale")
    return Scaled(stored, scale, zero, group_of, input_scale, input_zero)


def _divides(scales: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether every axis has between one scale and one for each entry, the same number of entries to each."""
    return all(1 <= s <= n and -(-n // -(-n // s)) == s for s, n in zip(scales, shape, strict=True))


def _require(holds: bool, name: str, why: str) -> None:
    if not holds:
        raise FileError(f"tensor {name!r}: {why}; the file was not written by a correct program, get it again")
