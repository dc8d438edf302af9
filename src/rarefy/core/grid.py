"""The integers that a layer's weight was rounded to, kept with the layer so that nothing rounds it a second time."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import ShapeError, SparsityError, unknown_name
from rarefy.core.quantized import QuantizedWeight
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.core.site import Site

_ATTRIBUTE = "_rarefy_grid"
_ROUNDINGS = ("feedback", "nearest")
_SHRINKS = 24  # scales tried below the one that holds the largest weight
_SMALLEST = 0.5  # of that scale


@dataclass(frozen=True)
class QuantizeSpec:
    """What weights are to be rounded to while they are pruned.

    bits: 8 or 4; group: inputs that share a scale, None for one scale a row; rounding: "feedback" rounds column by
    column and lets the columns behind make up for each error (GPTQ), "nearest" rounds each weight for itself.
    Grids are symmetric, so that a pruned weight is exactly zero.
    """

    bits: int = 8
    group: int | None = None
    rounding: str = "feedback"

    def __post_init__(self) -> None:
        if self.bits not in (8, 4):
            raise SparsityError(f"QuantizeSpec: bits={self.bits} is not stored by any format; choose 8 or 4")
        if self.group is not None and self.group < 1:
            raise SparsityError(f"QuantizeSpec: group={self.group} is no number of inputs; choose 16 or more, or None")
        if self.rounding not in _ROUNDINGS:
            raise unknown_name("QuantizeSpec: rounding", self.rounding, _ROUNDINGS)

    @property
    def largest(self) -> int:
        """The largest integer, with either sign."""
        return 2 ** (self.bits - 1) - 1

    def why_not(self, width: int) -> str | None:
        """Why rows of `width` inputs cannot be rounded so; None if they can."""
        if self.group is None or width % self.group == 0:
            return None
        return f"groups of {self.group} inputs with one scale do not divide the {width} inputs of a row"

    def require(self, width: int, site: str) -> None:
        """Raises ShapeError where the group does not divide the inputs."""
        why = self.why_not(width)
        if why is not None:
            raise ShapeError(f"{site}: {why}; choose another group=, group=None, or leave the layer alone with ignore=")

    def __str__(self) -> str:
        return f"int{self.bits}, " + ("a scale a row" if self.group is None else f"a scale for {self.group} inputs")


@dataclass(frozen=True, eq=False)
class Grid:
    """scale: float32 (out, groups), positive; a weight is `scale * integer`, the integer of so many bits."""

    scale: Tensor
    bits: int

    def round(self, weight: Weight) -> QuantizedWeight:
        """The nearest integers, saturated; ties to even."""
        out, width = weight.shape
        groups = self.scale.shape[1]
        steps = weight.float().reshape(out, groups, width // groups) / self.scale[:, :, None]
        largest = 2 ** (self.bits - 1) - 1
        codes = steps.round().clamp(-largest, largest).to(torch.int8)
        return QuantizedWeight(codes.reshape(out, width), self.scale, self.bits)


def short(scale: Tensor) -> Tensor:
    """Positive numbers with 8 significant bits: two bytes hold them, and an integer of 8 bits times one is exact in
    float32. Rounded up, so that the largest weight still fits."""
    bits = scale.float().contiguous().view(torch.int32)
    return ((bits + 0xFFFF) & -0x10000).view(torch.float32).clamp(torch.finfo(torch.float32).tiny, 1e38)


def fit_scales(
    weight: Weight, keep: Mask, spec: QuantizeSpec, importance: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "out groups"]:
    """The scale of each group with the least squared error of its kept weights, of the one that holds the largest and
    smaller ones; 8 bits take the largest. Groups that keep nothing have scale 1.

    importance: how much the squared error of each input counts, (in).
    """
    out, width = weight.shape
    if width == 0:
        return torch.ones(out, 1)
    group = spec.group or width
    kept = (weight * keep).float().reshape(out, -1, group)
    peak = kept.abs().amax(-1)
    full = torch.where(peak > 0, short(peak / spec.largest), torch.ones_like(peak))
    if spec.bits == 8:
        return full
    count = torch.ones(width) if importance is None else importance.float()
    by = (keep.float() * count).reshape(kept.shape)
    best, least = full, torch.full_like(full, torch.inf)
    for i in range(_SHRINKS):
        scale = short(full * (1.0 - (1.0 - _SMALLEST) * i / _SHRINKS)) if i else full
        codes = (kept / scale[..., None]).round().clamp(-spec.largest, spec.largest)
        error = ((codes * scale[..., None] - kept).square() * by).sum(-1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return torch.where(peak > 0, best, torch.ones_like(best))


def tidy(codes: QuantizedWeight) -> QuantizedWeight:
    """The same weight with scale 1 for groups of nothing but zeros, as files give them back."""
    out, width = codes.shape
    empty = ~codes.values.reshape(out, codes.groups, -1).ne(0).any(-1) if width else torch.ones_like(codes.scale).bool()
    return QuantizedWeight(codes.values, torch.where(empty, 1.0, codes.scale), codes.bits)


def attach_grid(site: Site, grid: Grid | None) -> None:
    """Keeps the grid with the layer's modules; None forgets an older one."""
    for module in site.modules:
        if grid is not None:
            module.__dict__[_ATTRIBUTE] = grid
        else:
            module.__dict__.pop(_ATTRIBUTE, None)


def grid_of(module: nn.Module) -> Grid | None:
    """The grid that is kept with a layer, whether its weight still lies on it or not."""
    return module.__dict__.get(_ATTRIBUTE)


def codes_of(module: nn.Module) -> QuantizedWeight | None:
    """The integers and scales of a layer's weight (out, in), None where it has no grid or lies on it no more."""
    grid, parameter = grid_of(module), module._parameters.get("weight")
    if grid is None or parameter is None or parameter.is_meta or parameter.dim() < 2:
        return None
    weight = Site("", (module,)).as_matrix(parameter.detach())
    if weight.shape[0] != grid.scale.shape[0] or weight.shape[1] % grid.scale.shape[1]:
        return None
    codes = grid.round(weight)
    return codes if torch.equal(codes.dequantize().to(weight.dtype), weight) else None
