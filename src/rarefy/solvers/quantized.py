"""Rounding after any solver: its mask stays, its weights go onto a grid."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.grid import Grid, QuantizeSpec, fit_scales, tidy
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.damping import damped_inverse
from rarefy.solvers.rounding_sweep import Columns, Rounded, rounding_sweep


@method(
    "quantized",
    role="solver",
    source="Frantar et al. 2022 (GPTQ), arXiv:2210.17323, algorithm 1 (weights given the mask)",
)
@dataclass(frozen=True)
class Quantized:
    """Any solver's mask, its kept weights rounded: by GPTQ's sweep under the mask, or each to its nearest integer.

    The sweep aims at the output of the weights before the solver. Where the solver refitted what it keeps, it aims at
    the output of those: on the mask's support that is the same least-squares problem.
    quantize: what to round to; columns, damping: of the sweep, reported as rounding_damping.
    """

    solver: Solver
    quantize: QuantizeSpec = field(default_factory=QuantizeSpec)
    columns: int = 128
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.columns < 1 or self.damping < 0:
            raise SparsityError(f"{self}: needs columns >= 1 and damping >= 0")

    @property
    def needs(self) -> frozenset[Need]:
        more = {Need.INPUT_GRAM} if self.quantize.rounding == "feedback" else set()
        return self.solver.needs | more

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        self.quantize.require(weight.shape[1], evidence.site)
        solution = self.solver(weight, pattern, density, evidence)
        result = dict(solution.result)
        if self.quantize.rounding == "nearest":
            done = nearest(solution.weight, solution.mask, self.quantize)
        else:
            kept = solution.weight * solution.mask
            start = weight if torch.equal(kept, weight * solution.mask) else kept
            inverse = damped_inverse(evidence[Need.INPUT_GRAM], self.damping, evidence.site)
            done = rounding_sweep(start, inverse, self.quantize, self.columns, _Given(start, solution.mask))
            result |= {"rounding_damping": inverse.damping}
        return Solution(done.weight, solution.mask, result, solution.shift, done.grid)


def nearest(weight: Weight, mask: Mask, spec: QuantizeSpec) -> Rounded:
    """Each kept weight to the nearest integer of its group's scale."""
    codes = tidy(Grid(fit_scales(weight, mask, spec), spec.bits).round(weight * mask))
    return Rounded(codes.dequantize().to(weight.dtype), mask, Grid(codes.scale, codes.bits))


class _Given(Columns):
    """A mask that is known."""

    def __init__(self, weight: Weight, mask: Mask) -> None:
        self._weight, self._mask = weight, mask

    def block(self, start: int, end: int) -> None:
        pass

    def kept(self, w: Float[Tensor, "width rows"], start: int) -> Tensor:
        return self._mask.t()[start : start + len(w)]

    def first_guess(self) -> tuple[Weight, Mask]:
        return self._weight, self._mask
