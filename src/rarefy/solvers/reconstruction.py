"""Layer-wise reconstruction: choose a mask by a score, then refit what is kept to the layer's output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Score, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.alive import select_alive

_LIMIT = 1.0  # beyond so much damping the problem is another one


@dataclass(frozen=True)
class Refit:
    """Refitted weights, the conjugate-gradient steps taken, the largest relative residual of a row, and the damping."""

    weight: Weight
    steps: int
    residual: float
    damping: float


def refit(
    weight: Weight, mask: Mask, gram: Float[Tensor, "n n"], damping: float, iterations: int, tolerance: float, site: str
) -> Refit:
    """min over V supported on `mask` of tr((W - V) H (W - V)^T), H = gram + damping * mean(diag) * I.

    Conjugate gradients on all rows at once with a Jacobi preconditioner, every row with its own step lengths:
    only products `(out, n) (n, n)`, no inverse a row. They start at W * mask.
    A Gram of few tokens is singular, and rounding may make it indefinite: where a row meets a direction in which H does
    not rise, the damping grows tenfold (from 1e-8 at least) and all rows start again. Beyond 1 that is a SolverError.
    """
    gram = gram.to(torch.promote_types(gram.dtype, weight.dtype))
    mean = gram.diagonal().double().mean().clamp_min(1e-300)
    scaled, used = (gram.double() / mean).to(gram.dtype), damping
    while used <= max(_LIMIT, damping):
        h = scaled + torch.eye(gram.shape[0], dtype=gram.dtype) * (used + 1e-12)
        found = _conjugate_gradients(weight, mask, h, iterations, tolerance)
        if found is not None:
            return Refit(*found, used)
        used = 10 * max(used, 1e-9)
    raise SolverError(
        f"{site}: the Gram matrix of its inputs is not positive definite even with {used / 10:g} times its mean "
        f"diagonal added (asked: {damping:g}); give more calibration data or a larger damping"
    )


def _conjugate_gradients(
    weight: Weight, mask: Mask, h: Float[Tensor, "n n"], iterations: int, tolerance: float
) -> tuple[Weight, int, float] | None:
    """(V, steps, largest relative residual); None where H is seen to be indefinite."""
    keep = mask.to(h.dtype)
    v = weight * keep
    residual = (weight - v).mm(h).mul_(keep)
    scale = residual.norm(dim=1).clamp_min(1e-30)
    preconditioner = keep / h.diagonal()
    direction = residual * preconditioner
    rho = torch.linalg.vecdot(residual, direction)
    steps = 0
    while steps < iterations and bool((open_rows := residual.norm(dim=1) > tolerance * scale).any()):
        steps += 1
        image = direction.mm(h).mul_(keep)
        curvature = torch.linalg.vecdot(direction, image)
        if bool((open_rows & (curvature <= 0)).any()):
            return None
        alpha = rho / curvature.clamp_min(1e-30)
        v.addcmul_(alpha[:, None], direction)
        residual.addcmul_(alpha[:, None], image, value=-1.0)
        z = residual * preconditioner
        rho, old = torch.linalg.vecdot(residual, z), rho
        direction.mul_((rho / old.clamp_min(1e-30))[:, None]).add_(z)
    worst = (residual.norm(dim=1) / scale).max().item() if len(v) else 0.0
    return v, steps, worst


@method("reconstruction", role="solver", source="He et al. 2017, arXiv:1707.06168, eq. 2 (weights given the mask)")
@dataclass(frozen=True)
class Reconstruction:
    """The mask of a score, and the least-squares weights on it: min ||X W^T - X V^T||_F^2.

    score: what chooses the mask; damping: ridge over the mean of the Gram's diagonal, which pulls towards the
    weights as they were, raised where it is too little (`refit`) and reported in the result; iterations and tolerance:
    of the conjugate gradients, reported too.
    """

    score: Score
    damping: float = 0.01
    iterations: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.damping < 0 or self.iterations < 1 or self.tolerance <= 0:
            raise SparsityError(f"{self}: needs damping >= 0, iterations >= 1 and tolerance > 0")

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs | {Need.INPUT_GRAM}

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        mask = select_alive(pattern, self.score(weight, evidence), weight, density)
        gram = evidence[Need.INPUT_GRAM]
        done = refit(weight, mask, gram, self.damping, self.iterations, self.tolerance, evidence.site)
        result = {"damping": done.damping, "iterations": done.steps, "residual": done.residual}
        return Solution(done.weight * mask, mask, result)
