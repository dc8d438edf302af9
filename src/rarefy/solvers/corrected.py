"""Aiming a solver at the dense model's outputs, so that it undoes what sparsity did before this layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Weight
from rarefy.solvers.admm import ADMM
from rarefy.solvers.damping import damped_inverse
from rarefy.solvers.reconstruction import refit


def corrected(
    weight: Weight, gram: Float[Tensor, "n n"], cross: Float[Tensor, "out n"], ridge: float, site: str
) -> tuple[Weight, float]:
    """argmin_V sum |t - V x|^2 + lam |V - W|^2 = (C + lam W) (H + lam I)^-1, and lam over the mean of diag H."""
    inverse = damped_inverse(gram, ridge, site)
    scale = gram.double().diagonal()[~inverse.dead].mean() if bool((~inverse.dead).any()) else torch.tensor(1.0)
    aim = (cross.double() / scale + inverse.damping * weight.double()) @ (inverse.upper.t() @ inverse.upper)
    aim[:, inverse.dead] = weight.double()[:, inverse.dead]
    return aim.to(weight.dtype), inverse.damping


@method("corrected", role="solver", source="Li et al. 2025 (GPTAQ), arXiv:2504.02692, section 4 (asymmetric target)")
@dataclass(frozen=True)
class Corrected:
    """Corrects the weight towards the wanted outputs, runs `solver` on it, then refits what was kept.

    With inputs x of the sparse model and wanted outputs t: V = (C + lam W)(H + lam I)^-1, C = sum t x^T,
    H = sum x x^T; `solver` prunes V; the kept weights then minimise tr((V - U) (H + mu I) (V - U)^T).
    ridge, damping: lam and mu over the mean of diag H, raised where they are too little and reported as ridge and
    refit_damping; iterations: of the refit, 0 leaves it out.
    refine: lets ADMM exchange weights of the mask, from the solver's solution, before the refit.
    Differs: the paper derives updates inside the column sweep of a quantiser; here the correction is one solve
    before the sweep, and what the residual stream lacks is part of t.
    """

    solver: Solver
    ridge: float = 0.01
    damping: float = 0.001
    iterations: int = 100
    tolerance: float = 1e-3
    refine: ADMM | None = None

    def __post_init__(self) -> None:
        if min(self.ridge, self.damping, self.iterations) < 0 or self.tolerance <= 0:
            raise SparsityError(f"{self}: ridge, damping and iterations must not be negative, tolerance positive")

    @property
    def needs(self) -> frozenset[Need]:
        return self.solver.needs | {Need.INPUT_GRAM, Need.WANTED_CROSS}

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        gram = evidence[Need.INPUT_GRAM]
        aim, ridge = corrected(weight, gram, evidence[Need.WANTED_CROSS], self.ridge, evidence.site)
        aim = torch.where(weight == 0, 0.0, aim)  # zeros that were there stay
        solution = self.solver(aim, pattern, density, evidence)
        result = {**solution.result, "ridge": ridge}
        if self.refine is not None:
            better = self.refine.improve(aim, solution.weight, weight != 0, pattern, density, evidence)
            return Solution(better.weight, better.mask, {**result, **better.result})
        if self.iterations == 0:
            return Solution(solution.weight, solution.mask, result)
        asked = (self.damping, self.iterations, self.tolerance)
        done = refit(aim, solution.mask, gram, *asked, evidence.site)
        result |= {"refit_damping": done.damping, "refit_iterations": done.steps, "refit_residual": done.residual}
        return Solution(done.weight * solution.mask, solution.mask, result)
