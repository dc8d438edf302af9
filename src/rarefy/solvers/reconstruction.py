"""Layer-wise reconstruction: choose a mask by a score, then refit what is kept to the layer's output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Score, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.alive import select_alive


def refit(
    weight: Weight, mask: Mask, gram: Float[Tensor, "n n"], damping: float, iterations: int, tolerance: float
) -> tuple[Weight, int, float]:
    """min over V supported on `mask` of tr((W - V) H (W - V)^T), H = gram + damping * mean(diag) * I.

    Conjugate gradients on all rows at once with a Jacobi preconditioner, every row with its own step lengths:
    only products `(out, n) (n, n)`, no inverse a row. Starts at W * mask. Returns V, the iterations used and
    the largest relative residual of a row.
    """
    gram = gram.to(torch.promote_types(gram.dtype, weight.dtype))
    mean = gram.diagonal().double().mean().clamp_min(1e-300)
    h = (gram.double() / mean).to(gram.dtype) + torch.eye(gram.shape[0], dtype=gram.dtype) * (damping + 1e-12)
    keep = mask.to(gram.dtype)
    v = weight * keep
    residual = (weight - v).mm(h).mul_(keep)
    scale = residual.norm(dim=1).clamp_min(1e-30)
    preconditioner = keep / h.diagonal()
    direction = residual * preconditioner
    rho = torch.linalg.vecdot(residual, direction)
    steps = 0
    while steps < iterations and bool((residual.norm(dim=1) > tolerance * scale).any()):
        steps += 1
        image = direction.mm(h).mul_(keep)
        alpha = rho / torch.linalg.vecdot(direction, image).clamp_min(1e-30)
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
    weights as they were; iterations and tolerance: of the conjugate gradients, reported in the result.
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
        fitted, steps, residual = refit(weight, mask, gram, self.damping, self.iterations, self.tolerance)
        return Solution(fitted * mask, mask, {"iterations": steps, "residual": residual})
