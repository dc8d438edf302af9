"""Projected gradient: a step on the layer's output error, then the best sparse point near it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Score, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Weight
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.alive import select_alive


@method("awp-pgd", role="solver", source="Liu et al. 2025 (AWP), arXiv:2506.10205, algorithm 1")
@dataclass(frozen=True)
class ProjectedGradient:
    """min over T in the pattern of tr((W - T) C (W - T)^T), C = H / tokens, by T <- P(T + eta (W - T) C).

    P keeps the pattern's largest |entries|. It starts from the mask of `start` (Wanda's, as in the paper) and the
    best iterate is kept, so the result is never worse than that. eta = 1 / lambda_max(C): the error never rises.
    iterations: at most; tolerance: it stops when T changes by less than this share of its size.
    Differs: the paper steps by 2 / |C|_F; only 1 / lambda_max makes every step go down (and equals 1 for C = I). The
    quantised variant is not here.
    """

    start: Score = field(default_factory=InputNorm)
    iterations: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.tolerance < 0:
            raise SparsityError(f"{self}: needs iterations >= 1 and tolerance >= 0")

    @property
    def needs(self) -> frozenset[Need]:
        return self.start.needs | {Need.INPUT_GRAM}

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        gram = evidence[Need.INPUT_GRAM].to(weight.dtype)
        largest = largest_eigenvalue(gram)
        mask = select_alive(pattern, self.start(weight, evidence), weight, density)
        point = weight * mask
        if largest <= 0:  # no input ever: nothing to go by but the start
            return Solution(point, mask, {"iterations": 0})
        c = gram / largest
        least, best, steps = _error(weight - point, c), (point, mask), 0
        while steps < self.iterations:
            steps += 1
            moved = torch.addmm(point, weight - point, c)
            mask = select_alive(pattern, moved.abs(), weight, density)
            new = moved * mask
            change, point = (new - point).norm(), new
            error = _error(weight - point, c)
            if error < least:
                least, best = error, (point, mask)
            if change <= self.tolerance * point.norm():
                break
        return Solution(*best, {"iterations": steps})


def largest_eigenvalue(gram: Float[Tensor, "n n"]) -> float:
    """lambda_max of a symmetric non-negative matrix, from above by about 1 %.

    Power iteration comes from below; it is lifted by the residual |C v - l v|, by which l may be off, and the trace
    bounds it from above.
    """
    c = gram.double()
    trace = float(c.diagonal().sum())
    if trace <= 0:
        return 0.0
    v = c.diagonal() + c.abs().sum(0) + 1e-12 * trace
    value, residual = 0.0, 0.0
    for _ in range(200):
        v = v / v.norm()
        image = c @ v
        value = float(v @ image)
        residual = float((image - value * v).norm())
        v = image
        if value <= 0 or residual <= 0.01 * value:
            break
    return min(trace, value + residual) if value > 0 else trace


def _error(difference: Weight, c: Float[Tensor, "n n"]) -> float:
    return float(((difference @ c) * difference).sum())
