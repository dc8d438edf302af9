"""Weights and inputs as small integers with scales, zeros exact."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError, WeightError

_LARGEST = {8: 127, 4: 7}


class InputScale(NamedTuple):
    """What 8-bit inputs (tokens, in) of a layer stand for, known in advance: x_k ~ factors_k scale (q_k - zero).

    q is in [0, 255]. factors: positive, one an input, or () where all are 1; the weight that multiplies q is `folded`.
    """

    scale: float
    zero: int
    factors: tuple[float, ...] = ()

    def folded(self, weight: Tensor) -> Tensor:
        """The weight (out, in) for inputs that were divided by the factors; zeros stay zeros."""
        return weight * torch.tensor(self.factors) if self.factors else weight

    @property
    def inverse(self) -> Tensor:
        """What an input is multiplied by before it is rounded: float32 (in), or (1) where all factors are 1."""
        return 1.0 / (torch.tensor(self.scale) * torch.tensor(self.factors or (1.0,)))

    def quantise(self, x: Tensor) -> Tensor:
        """uint8 of x (..., in), saturated, ties to even."""
        return ((x * self.inverse).round() + self.zero).clamp(0, 255).to(torch.uint8)

    def rounded(self, x: Tensor) -> Tensor:
        """What is left of x (..., in) after 8 bits."""
        return (self.quantise(x).float() - self.zero) / self.inverse


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight (out, in) as `scale * values`, symmetric around zero, so that a pruned entry stays exactly zero.

    values: int8 (out, in), in [-127, 127] for 8 bits and [-7, 7] for 4; scale: float32 (out, groups), positive;
    each scale belongs to in / groups consecutive inputs of its row.
    """

    values: Tensor
    scale: Tensor
    bits: int = 8

    def __post_init__(self) -> None:
        if self.bits not in _LARGEST:
            raise ShapeError(f"QuantizedWeight: bits={self.bits}; 8 and 4 are stored")
        if self.values.dtype != torch.int8 or self.scale.dtype != torch.float32:
            raise DTypeError(
                f"QuantizedWeight: values are {self.values.dtype} and scales {self.scale.dtype}; "
                "they must be int8 and float32"
            )
        if self.values.dim() != 2 or self.scale.dim() != 2 or self.scale.shape[0] != self.values.shape[0]:
            raise ShapeError(
                f"QuantizedWeight: values {tuple(self.values.shape)} and scales {tuple(self.scale.shape)}; they must "
                "be (out, in) and (out, groups)"
            )
        if self.scale.shape[1] == 0 or self.values.shape[1] % self.scale.shape[1]:
            raise ShapeError(
                f"QuantizedWeight: {self.scale.shape[1]} scales a row do not divide {self.values.shape[1]} inputs"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def groups(self) -> int:
        """Scales in a row."""
        return self.scale.shape[1]

    @property
    def largest(self) -> int:
        """The largest integer that the bits hold, with either sign."""
        return _LARGEST[self.bits]

    def dequantize(self) -> Tensor:
        """The float32 weight (out, in) that the integers stand for."""
        out, width = self.shape
        grouped = self.values.float().view(out, self.groups, width // self.groups)
        return (grouped * self.scale.unsqueeze(-1)).view(out, width)


def not_finite(weight: Tensor) -> str | None:
    """The first entry of a weight (out, in) that is NaN or infinite, in words; None where there is none."""
    finite = weight.isfinite()
    if finite.all():
        return None
    row, column = (int(i) for i in (~finite).nonzero()[0])
    return f"weight[{row}, {column}] is {weight[row, column].item()}"


def quantize_weight(weight: Tensor, bits: int = 8, group: int | None = None) -> QuantizedWeight:
    """Rounds a weight (out, in) to integers: one scale a row, or one for every `group` inputs of a row.

    The scale of a group is its largest magnitude over 127 (8 bits) or 7 (4 bits); ties round to even. Zeros stay zero.
    Raises ShapeError when `group` does not divide the inputs, DTypeError for a weight that is not floating point,
    WeightError for one that holds NaN or infinity.

    >>> q = quantize_weight(torch.tensor([[0.0, 1.27, -0.5]]))
    >>> q.values.tolist()
    [[0, 127, -50]]
    """
    if not weight.is_floating_point():
        raise DTypeError(f"quantize_weight: weight is {weight.dtype}; it must be floating point")
    if weight.dim() != 2:
        raise ShapeError(f"quantize_weight: weight has shape {tuple(weight.shape)}, it must be (out, in)")
    if bits not in _LARGEST:
        raise ShapeError(f"quantize_weight: bits={bits}; choose 8 or 4")
    out, width = weight.shape
    if group is not None and (group < 1 or width % group):
        raise ShapeError(f"quantize_weight: group={group} does not divide the {width} inputs of a row")
    if found := not_finite(weight):
        raise WeightError(f"quantize_weight: {found}; integers with a scale stand for finite values only: repair it")
    if width == 0:
        return QuantizedWeight(torch.zeros(out, 0, dtype=torch.int8), torch.ones(out, 1), bits)
    group = group or width
    grouped = weight.detach().float().reshape(out, width // group, group)
    step = grouped.abs().amax(-1, keepdim=True) / _LARGEST[bits]
    scale = torch.where(step > 0, step, torch.ones_like(step))  # magnitudes below about 1e-43 have no step: all zeros
    codes = (grouped / scale).round().clamp(-_LARGEST[bits], _LARGEST[bits]).to(torch.int8)
    return QuantizedWeight(codes.view(out, width), scale.squeeze(-1).contiguous(), bits)
