"""The sweep over columns that rounds what stays and drops the rest, feeding every error forward."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.grid import Grid, QuantizeSpec, fit_scales, tidy
from rarefy.core.quantized import QuantizedWeight
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.damping import DampedInverse


class Columns(ABC):
    """Says which weights of some columns stay. tile: columns that are decided together; span: columns within which a
    choice is closed and waits for the updates of those before, None where a whole block is chosen at once."""

    tile: int = 1
    span: int | None = None

    @abstractmethod
    def block(self, start: int, end: int) -> None:
        """Columns [start, end) come next; called once a block, from left to right."""

    @abstractmethod
    def kept(self, w: Float[Tensor, "width rows"], start: int) -> Tensor:
        """Which of the columns from `start` on, given as they are now, stay: bool (width, rows)."""

    @abstractmethod
    def first_guess(self) -> tuple[Weight, Mask]:
        """Weights (out, in) about as the sweep will meet them, and which of them will stay: for scales that have to be
        known before anything is chosen."""


@dataclass(frozen=True)
class Rounded:
    """weight: on the grid, (out, in); mask: what stayed, of which some may have been rounded to zero."""

    weight: Weight
    mask: Mask
    grid: Grid


def rounding_sweep(weight: Weight, inverse: DampedInverse, spec: QuantizeSpec, width: int, columns: Columns) -> Rounded:
    """Rounds and prunes a weight (out, in) column by column (`solvers.gptq` has the formulas).

    width: columns in a block, rounded down to whole groups and tiles.
    """
    return _Sweep(weight, inverse, spec, columns).run(width)


class _Sweep:
    def __init__(self, weight: Weight, inverse: DampedInverse, spec: QuantizeSpec, columns: Columns) -> None:
        self.spec, self.columns = spec, columns
        self.w = weight.t().contiguous()  # (n, rows): a column of W is a contiguous row here
        self.n = self.w.shape[0]
        self.upper = inverse.upper.to(weight.dtype)
        self.importance = inverse.upper.diagonal().pow(-2).float()
        self.mask = torch.zeros_like(self.w, dtype=torch.bool)
        self.codes = torch.zeros_like(self.w, dtype=torch.int8)
        self.group = spec.group or max(1, self.n)
        self.scales = torch.ones(max(1, self.n // self.group), self.w.shape[1])
        if spec.group is None and self.n:
            self.scales[0] = fit_scales(*columns.first_guess(), spec, self.importance)[:, 0]

    def run(self, width: int) -> Rounded:
        unit = math.lcm(self.columns.tile, self.columns.span or 1, self.spec.group or 1)
        step = max(1, width // unit) * unit
        for start in range(0, self.n, step):
            self._block(start, min(self.n, start + step))
        codes = tidy(QuantizedWeight(self.codes.t().contiguous(), self.scales.t().contiguous(), self.spec.bits))
        weight = codes.dequantize().to(self.w.dtype)
        return Rounded(weight, self.mask.t().contiguous(), Grid(codes.scale, codes.bits))

    def _block(self, start: int, end: int) -> None:
        """Prunes and rounds the columns [start, end) in place and updates all after."""
        self.columns.block(start, end)
        span = self.columns.span or end - start
        errors = torch.empty_like(self.w[start:end])
        for j in range(start, end):
            if (j - start) % span == 0:
                self.mask[j : j + span] = self.columns.kept(self.w[j : j + span], j)
            if self.spec.group is not None and j % self.group == 0:
                self._scale(j)
            errors[j - start] = (self.w[j] - self._rounded(j)) / self.upper[j, j]
            self.w[j + 1 : end].addr_(self.upper[j, j + 1 : end], errors[j - start], alpha=-1.0)
        self.w[end:].addmm_(self.upper[start:end, end:].t(), errors, alpha=-1.0)

    def _scale(self, start: int) -> None:
        """The scales of the group that begins here, from its weights as they are now."""
        part = slice(start, start + self.group)
        keep = self.mask[part] if self.columns.span is None else self.columns.kept(self.w[part], start)
        found = fit_scales(self.w[part].t(), keep.t(), self.spec, self.importance[part])
        self.scales[start // self.group] = found[:, 0]

    def _rounded(self, j: int) -> Tensor:
        """What column j becomes, (rows); its integers are noted."""
        scale, most = self.scales[j // self.group], self.spec.largest
        codes = (self.w[j].float() / scale).round().clamp(-most, most) * self.mask[j]
        self.codes[j] = codes.to(torch.int8)
        return (codes * scale).to(self.w.dtype)
