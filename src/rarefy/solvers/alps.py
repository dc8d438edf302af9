"""ALPS: ADMM with a penalty that rises as the support settles, then conjugate gradients on the support."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.alive import select_alive
from rarefy.solvers.reconstruction import refit

_RISES = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))  # where more than this share of the support changed: rho times this


@method("alps", role="solver", source="Meng et al. 2024 (ALPS), arXiv:2406.07831, algorithms 1 and 2")
@dataclass(frozen=True)
class ALPS:
    """min over V in the pattern of tr((W - V) H (W - V)^T) by the splitting W = D.

    Columns are scaled to a unit diagonal (the paper's preconditioning) after adding `damping` times its mean, raised
    tenfold while an eigenvalue is not positive and reported in the result. Then
    W <- (H + rho I)^-1 (H W0 - U + rho D);  D <- P(W + U / rho);  U <- U + rho (W - D)         (eq. 4)
    with one eigendecomposition for every rho. Every `every` iterations rho grows by 1.3, 1.2 or 1.1, by the share
    of the support that changed (above 10 %, above 0.5 %, any); while the first looks find no change, rho was too
    high to move at all and falls fivefold, from the start again. It ends when the support stays. The weights on it
    are then refitted by preconditioned conjugate gradients on all columns at once.
    rho: the first penalty; refits: conjugate-gradient steps, 10 in the paper.
    Differs: the better of the first and the last support is returned, each refitted, so it never loses to its start;
    the preconditioner is the diagonal, which is 1 here, as in the paper's own code.
    """

    rho: float = 0.1
    iterations: int = 300
    every: int = 3
    damping: float = 0.01
    refits: int = 10
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_GRAM})

    def __post_init__(self) -> None:
        if min(self.rho, self.damping) <= 0 or min(self.iterations, self.every, self.refits) < 1:
            raise SparsityError(f"{self}: needs rho and damping above 0 and iterations, every and refits of at least 1")

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        inputs = _unit_diagonal(evidence[Need.INPUT_GRAM].double(), self.damping, evidence.site)
        h, scale = inputs.h, inputs.scale
        dense = weight.double() * scale
        first = select_alive(pattern, dense.abs(), weight, density)
        last, steps, rho = self._settle(dense, inputs, first, weight, pattern, density)
        found = [(mask, refit(dense, mask, h, 0.0, self.refits, 1e-4, evidence.site)) for mask in (last, first)]
        mask, done = min(found, key=lambda f: _error(dense - f[1].weight, h))
        changed = float((last != first).double().mean())
        result = {"damping": inputs.damping, "iterations": steps, "rho": rho, "mask_changed": changed}
        return Solution((done.weight / scale).to(weight.dtype) * mask, mask, result | {"refit_iterations": done.steps})

    def _settle(
        self, dense: Weight, inputs: "_Inputs", first: Mask, weight: Weight, pattern: Pattern, density: float
    ) -> tuple[Mask, int, float]:
        """The support on which the splitting comes to rest, the iterations that took, and the last penalty."""
        values, vectors = inputs.values, inputs.vectors
        target, kept = dense @ inputs.h, max(1, int(first.count_nonzero()))
        rho, risen = self.rho, False
        point, dual, seen, mask = dense * first, torch.zeros_like(dense), first, first
        for step in range(1, self.iterations + 1):
            free = ((target - dual + rho * point) @ vectors / (values + rho)) @ vectors.t()
            moved = free + dual / rho
            mask = select_alive(pattern, moved.abs(), weight, density)
            point = moved * mask
            dual = dual + rho * (free - point)
            if step % self.every:
                continue
            changed = int((mask != seen).count_nonzero())
            if changed == 0 and risen:
                return mask, step, rho
            if changed / kept > _RISES[1][0] or (changed and risen):
                risen = True
                rho = min(1e6, rho * next(rise for share, rise in _RISES if changed / kept > share))
            elif rho > 1e-8:  # hardly anything moved: start again with less of a pull
                rho, point, dual, mask = rho / 5, dense * first, torch.zeros_like(dense), first
            else:
                return mask, step, rho
            seen = mask
        return mask, self.iterations, rho


@dataclass(frozen=True)
class _Inputs:
    """h: S^-1 (H + lambda I) S^-1 with its eigenvalues and vectors; scale: S, the root of the diagonal of H + lambda I;
    damping: lambda over the mean of the diagonal of H."""

    h: Float[Tensor, "n n"]
    scale: Float[Tensor, "n"]
    values: Float[Tensor, "n"]
    vectors: Float[Tensor, "n n"]
    damping: float


def _unit_diagonal(gram: Tensor, damping: float, site: str) -> _Inputs:
    """The damped Gram at a unit diagonal; inputs that never fire have the ridge alone.

    The Gram of few tokens may have eigenvalues below zero, by rounding: then the damping grows tenfold.
    """
    mean = gram.diagonal().mean()
    mean, used = mean if mean > 0 else torch.ones_like(mean), damping
    while used <= max(1.0, damping):
        h = gram + used * mean * torch.eye(gram.shape[0], dtype=gram.dtype)
        scale = h.diagonal().sqrt()
        h = h / scale[:, None] / scale[None]
        values, vectors = torch.linalg.eigh(h)
        if bool(values.min() > 0):
            return _Inputs(h, scale, values, vectors, used)
        used *= 10
    raise SolverError(
        f"{site}: the Gram matrix of its inputs is not positive definite even with {used / 10:g} times its mean "
        f"diagonal added (asked: {damping:g}); give more calibration data or a larger damping"
    )


def _error(difference: Weight, h: Float[Tensor, "n n"]) -> float:
    return float(((difference @ h) * difference).sum())
