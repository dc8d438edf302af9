"""Sampling that keeps the spectrum: small weights stay by chance and are scaled up."""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Weight
from rarefy.solvers.sets import competing_sets


@method(
    "spectrum-preserving-pruning",
    role="solver",
    source="Yao et al. 2023, arXiv:2307.08982; Achlioptas and McSherry 2007, doi:10.1145/1219092.1219097, section 2",
)
@dataclass(frozen=True)
class SpectrumPreserving:
    """Keeps a_ij always if |a_ij| >= t, else with p_ij = max((a_ij / t)^2, floor), and stores a_ij / p_ij.

    E[S] = A, and |A - S|_2 stays small because the errors are independent, where cutting below a threshold adds
    them up. t is set so that the p add up to the asked count, and the draw is systematic over a random order: exactly
    so many entries with exactly these probabilities. What is kept by magnitude alone is the limit of large weights.
    floor: the least probability, over the density; 1 / floor bounds how much a kept weight is scaled up.
    spectrum: power-iteration steps for the diagnostics |A - S|_2 / |A|_2 in the result; 0 leaves them out.
    Differs: a fixed count where the papers draw each entry by itself; blocks are drawn whole, by their norm; within
    a set of the pattern (row, N:M group) where it has sets; convolutions by their matrix (out, in * kh * kw).
    """

    floor: float = 0.05
    spectrum: int = 20
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1 or self.spectrum < 0:
            raise SparsityError(f"{self}: needs a floor in (0, 1] and spectrum >= 0")

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        rows, n = weight.shape
        sets = competing_sets(pattern, rows, n, evidence.site)
        units = weight.double().reshape(-1)[sets].norm(dim=2)
        entries = sets.shape[0] * sets.shape[2]
        count = pattern.count(rows, n, density) // entries
        chance = _chances(units, count, self.floor * density)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{evidence.seed} {evidence.site}".encode()))
        drawn = _systematic(chance, generator)
        scale = torch.zeros(rows * n, dtype=torch.float64)
        scale[sets] = torch.where(drawn, 1.0 / chance.clamp_min(1e-300), 0.0)[:, :, None].expand(sets.shape)
        scale = scale.view(rows, n)
        mask = (scale > 0) & (weight != 0)
        kept = (weight.double() * scale).to(weight.dtype) * mask
        return Solution(kept, mask, _drift(weight, kept, self.spectrum) if self.spectrum else {})


def _chances(sizes: Float[Tensor, "sets units"], count: int, floor: float) -> Float[Tensor, "sets units"]:
    """min(1, max((size / t)^2, floor)) with t a set by bisection so that they add up to `count`; zeros never.

    Where a set has no more than `count` units of any size, all of them are certain.
    """
    alive = sizes > 0
    if count == 0:
        return torch.zeros_like(sizes)
    squares = (sizes / sizes.amax(1, keepdim=True).clamp_min(1e-300)).square()
    low, high = torch.full_like(sizes[:, :1], -700.0), torch.full_like(sizes[:, :1], 700.0)  # ln of 1 / t^2

    def chances(log: Tensor) -> Tensor:
        return (squares * log.exp()).clamp(min(floor, 1.0), 1.0) * alive

    for _ in range(80):
        middle = (low + high) / 2
        more = chances(middle).sum(1, keepdim=True) < count
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    found = chances(high)
    rich = alive.sum(1, keepdim=True) > count
    total = found.sum(1, keepdim=True)  # only the floor can hold it above the count; then all shrink alike
    found = torch.where(total > count, found * count / total.clamp_min(1e-300), found)
    return torch.where(rich, found, alive.to(sizes.dtype))


def _systematic(chance: Float[Tensor, "sets units"], generator: torch.Generator) -> Tensor:
    """Exactly round(sum) units of each set, each with its chance: one random start on the cumulated chances, in a
    random order, so that neighbours are independent of each other but for the count."""
    sets, units = chance.shape
    order = torch.rand(sets, units, generator=generator).argsort(1)
    ends = chance.gather(1, order).cumsum(1)
    total = ends[:, -1:].round()
    ends = torch.where(ends[:, -1:] > 0, ends * (total / ends[:, -1:].clamp_min(1e-300)), ends)
    ends[:, -1:] = total
    start = torch.rand(sets, 1, generator=generator, dtype=torch.float64)
    passed = (ends + start).floor()
    before = torch.cat([start.floor(), passed[:, :-1]], 1)
    drawn = torch.zeros(sets, units, dtype=torch.bool)
    return drawn.scatter(1, order, passed > before)


def _drift(before: Weight, after: Weight, steps: int) -> dict[str, float]:
    """|A - S|_2 / |A|_2, and the largest singular values of S over that of A."""
    a, s = (_largest_singular_value(m.double(), steps) for m in (before, after))
    off = _largest_singular_value((before - after).double(), steps)
    return {"spectral_error": off / a if a else 0.0, "top_singular_value": s / a if a else 1.0}


def _largest_singular_value(matrix: Float[Tensor, "out n"], steps: int) -> float:
    v = matrix.abs().sum(0) + 1e-30
    for _ in range(steps):
        v = matrix.t() @ (matrix @ (v / v.norm().clamp_min(1e-300)))
    return float((matrix @ (v / v.norm().clamp_min(1e-300))).norm())
