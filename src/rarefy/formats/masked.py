"""Weights stored dense with a mask beside them: `torch.nn.utils.prune` and NNCF."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.held import Held
from rarefy.formats.packed import VALUE_TYPES, as_integers

_MASKS = frozenset({torch.bool, torch.uint8, torch.int8, torch.int64, torch.float32, torch.float16, torch.bfloat16})
_NNCF_HOOK = re.compile(r"__nncf_hooks\.post_hooks\.(?P<name>.+)__0\.\d+\.(?P<kind>binary_mask|mask)")
_NNCF_OP = re.compile(r"(?P<name>.+)\.pre_ops\.\d+\.op\._?binary_mask")


@dataclass(frozen=True, eq=False)
class Masked:
    """A weight and the entries of it that count. mask: bool, True = keep; what it does not keep is an exact zero."""

    value: Tensor
    mask: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    def to_dense(self) -> Tensor:
        bits = as_integers(self.value)  # 8-bit floats have no `where` of their own
        return torch.where(self.mask, bits, torch.zeros((), dtype=bits.dtype)).view(self.value.dtype)


def fold(entries: Mapping[str, Tensor | Held]) -> dict[str, Tensor | Held]:
    """The entries with each weight and its mask as one `Masked`. Raises FileError.

    `L.weight_orig` and `L.weight_mask` become `L.weight` (torch.nn.utils.prune); a mask of NNCF joins the weight that
    it names. NNCF's regularised masks are logits: positive = keep, as at inference (sigmoid above one half).
    """
    found = dict(entries)
    kept_of: dict[tuple[int, bool], Tensor] = {}  # one mask may belong to many weights, and is made of bits only once
    for weight, mask, target, logits in _pairs(entries):
        if target != weight and target in entries:
            raise FileError(f"tensor {target!r}: it is stored twice, plain and as {weight!r}; get the file again")
        if isinstance(found.get(target), Masked):
            raise FileError(f"tensor {target!r}: it has two masks, {mask!r} and another; save it with one of them")
        value, given = entries[weight], entries[mask]
        found.pop(weight), found.pop(mask)
        known = kept_of.get((id(given), logits))
        masked = _checked(target, value, given, known, logits=logits)
        kept_of[id(given), logits] = masked.mask
        found[target] = masked
    return found


def _pairs(entries: Mapping[str, Tensor | Held]) -> Iterator[tuple[str, str, str, bool]]:
    """(weight, mask, name that the two get, whether the mask holds logits)."""
    for name in entries:
        if name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in entries:
            target = name.removesuffix("_mask")
            yield target + "_orig", name, target, False
        elif hook := _NNCF_HOOK.fullmatch(name):
            weight = hook["name"].replace(":", ".")
            if weight in entries:
                yield weight, name, weight, hook["kind"] == "mask"
        elif op := _NNCF_OP.fullmatch(name):
            weight = op["name"] + ".weight"
            if weight in entries:
                yield weight, name, weight, False


def _checked(name: str, value: Tensor | Held, mask: Tensor | Held, known: Tensor | None, *, logits: bool) -> Masked:
    """known: what was made of this mask before."""
    if not isinstance(value, Tensor) or not isinstance(mask, Tensor) or value.shape != mask.shape:
        shapes = f"{tuple(mask.shape)} and its values {tuple(value.shape)}"
        raise FileError(f"tensor {name!r}: its mask {shapes} differ; get the file again")
    if mask.dtype not in _MASKS or value.dtype not in VALUE_TYPES:
        raise FileError(f"tensor {name!r}: a mask of {mask.dtype} over values of {value.dtype} is not read")
    if known is not None:
        return Masked(value, known)
    kept = mask.gt(0) if logits else mask.ne(0)
    if not logits and mask.dtype != torch.bool and not torch.equal(kept.to(mask.dtype), mask):
        raise FileError(f"tensor {name!r}: its mask holds values other than 0 and 1; get the file again")
    return Masked(value, kept)
