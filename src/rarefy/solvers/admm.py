"""Splitting: let all weights move, pull them towards the best sparse point, tighten."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.alive import select_alive
from rarefy.solvers.reconstruction import refit


def split(
    aim: Weight,
    start: Weight,
    alive: Mask,
    gram: Float[Tensor, "n n"],
    pattern: Pattern,
    density: float,
    iterations: int,
    damping: float,
    penalties: tuple[float, float],
) -> Mask:
    """The mask that ADMM settles on for min tr((aim - V) H (aim - V)^T) over V in the pattern.

    With S = diag(H)^1/2, columns scaled to W = aim S and H = S^-1 H S^-1 + damping I, V = start S, U = 0:
    X = (W H + rho (V - U)) (H + rho I)^-1;  V = P(X + U);  U = U + X - V, P the pattern's projection by |X + U|.
    rho rises geometrically between the two penalties, and one eigendecomposition serves every rho.
    """
    scale = gram.diagonal().clamp_min(0.0).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    h = gram / scale[:, None] / scale[None] + damping * torch.eye(gram.shape[0], dtype=gram.dtype)
    values, vectors = torch.linalg.eigh(h)
    scaled = aim * scale
    rotated = (scaled @ h) @ vectors
    v, u = start * scale, torch.zeros_like(aim)
    mask = start != 0
    low, high = penalties
    for step in range(iterations):
        rho = low * (high / low) ** (step / max(1, iterations - 1))
        x = ((rotated + rho * ((v - u) @ vectors)) / (values + rho)) @ vectors.t()
        moved = x + u
        mask = select_alive(pattern, moved.abs(), alive.to(moved.dtype), density)
        v = moved * mask
        u = moved - v
    return mask


@method(
    "admm", role="solver", source="Boza 2024, arXiv:2401.02938; Meng et al. 2024 (ALPS), arXiv:2406.07831, section 3"
)
@dataclass(frozen=True)
class ADMM:
    """Sparsity by the alternating direction method of multipliers, then a least-squares refit on its mask.

    iterations: of the splitting; damping: over the diagonal after scaling it to 1; penalties: rho at the first and
    last iteration, in the same units; refits: conjugate-gradient steps, refit_damping: their ridge, raised where it is
    too little. Both are reported.
    Differs: both papers raise rho by rules of their own; here it rises geometrically over a fixed number of steps.
    """

    iterations: int = 40
    damping: float = 0.01
    penalties: tuple[float, float] = (0.03, 1.0)
    refits: int = 100
    refit_damping: float = 0.001
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_GRAM})

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.damping <= 0 or not 0 < self.penalties[0] <= self.penalties[1]:
            raise SparsityError(f"{self}: needs iterations >= 1, damping > 0 and 0 < first penalty <= last penalty")

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        start = weight * select_alive(pattern, weight.abs(), weight, density)
        return self.improve(weight, start, weight != 0, pattern, density, evidence)

    def improve(
        self, aim: Weight, start: Weight, alive: Mask, pattern: Pattern, density: float, evidence: Evidence
    ) -> Solution:
        """From a sparse `start` towards `aim`, keeping `alive` entries only. Never worse than the refitted start."""
        gram = evidence[Need.INPUT_GRAM].to(aim.dtype)
        mask = split(aim, start, alive, gram, pattern, density, self.iterations, self.damping, self.penalties)
        asked = (self.refit_damping, self.refits, 1e-3)
        new, old = (refit(aim, kept, gram, *asked, evidence.site) for kept in (mask, start != 0))
        better = _error(aim, new.weight, gram) <= _error(aim, old.weight, gram)
        done, kept = (new, mask) if better else (old, start != 0)
        changed = float((kept != (start != 0)).float().mean())
        result = {"mask_changed": changed, "split_damping": self.damping, "refit_damping": done.damping}
        result |= {"refit_iterations": done.steps, "refit_residual": done.residual}
        return Solution(done.weight * kept, kept, result)


def _error(aim: Weight, weight: Weight, gram: Float[Tensor, "n n"]) -> float:
    difference = aim - weight
    return float(((difference @ gram) * difference).sum())
