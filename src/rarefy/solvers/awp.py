"""Projected gradient: a step on the layer's output error, then the best sparse point near it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.grid import Grid, QuantizeSpec
from rarefy.core.protocols import Pattern, Score, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.alive import select_alive
from rarefy.solvers.quantized import nearest


@method("awp-pgd", role="solver", source="Liu et al. 2025 (AWP), arXiv:2506.10205, algorithm 1")
@dataclass(frozen=True)
class ProjectedGradient:
    """min over T in the pattern of tr((W - T) C (W - T)^T), C = H / tokens, by T <- P(T + eta (W - T) C).

    P keeps the pattern's largest |entries|. It starts from the mask of `start` (Wanda's, as in the paper) and the
    best iterate is kept, so the result is never worse than that. With eta = 1 / lambda_max(C) the error never rises.
    adaptive: each row first tries the step that is best on its own support, |g|^2 / (g C g^T) for the gradient g
    there; where the whole error would rise, eta is taken.
    iterations: at most; tolerance: it stops when T changes by less than this share of its size.
    Differs: the paper steps by 2 / |C|_F, with which the error may rise; adaptive steps are those of normalised
    iterative hard thresholding (Blumensath and Davies 2010) and find planted supports that a fixed step misses.
    quantize: then goes on from there with P that prunes and rounds what it keeps to the nearest multiples of scales
    fitted to it (section 4, joint); again the best iterate is kept. Differs: the paper raises the pruning ratio during
    the first joint iterations, here all pruning comes first.
    """

    start: Score = field(default_factory=InputNorm)
    iterations: int = 200
    tolerance: float = 1e-4
    adaptive: bool = True
    quantize: QuantizeSpec | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.tolerance < 0:
            raise SparsityError(f"{self}: needs iterations >= 1 and tolerance >= 0")

    @property
    def needs(self) -> frozenset[Need]:
        return self.start.needs | {Need.INPUT_GRAM}

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        if self.quantize is not None:
            self.quantize.require(weight.shape[1], evidence.site)
        gram = evidence[Need.INPUT_GRAM].to(weight.dtype)
        largest = largest_eigenvalue(gram)
        mask = select_alive(pattern, self.start(weight, evidence), weight, density)
        point = weight * mask
        if largest <= 0:  # no input ever: nothing to go by but the start
            at = self._state(weight, point, mask, gram, self.quantize)
            return Solution(at.point, mask, {"iterations": 0}, grid=at.grid)
        c = gram / largest
        state, steps = self._descend(weight, self._state(weight, point, mask, c, None), c, pattern, density, None)
        result = {"iterations": steps}
        if self.quantize is not None:
            start = self._state(weight, state.point, state.mask, c, self.quantize)
            state, more = self._descend(weight, start, c, pattern, density, self.quantize)
            result |= {"joint_iterations": more}
        return Solution(state.point, state.mask, result, grid=state.grid)

    def _descend(
        self,
        weight: Weight,
        state: "_State",
        c: Float[Tensor, "n n"],
        pattern: Pattern,
        density: float,
        spec: QuantizeSpec | None,
    ) -> tuple["_State", int]:
        """The best iterate, and how many there were."""
        steps = 0
        while steps < self.iterations:
            steps += 1
            new = self._step(weight, state, c, pattern, density, spec)
            change, state = (new.point - state.point).norm(), new if new.error <= state.error else state
            if change <= self.tolerance * new.point.norm() or state is not new:
                break
        return state, steps

    def _state(
        self, weight: Weight, moved: Weight, mask: Mask, c: Float[Tensor, "n n"], spec: QuantizeSpec | None
    ) -> "_State":
        """Where a projection with this mask puts a point."""
        if spec is None:
            point = moved * mask
            return _State(point, mask, *_error_and_gradient(weight, point, c))
        done = nearest(moved, mask, spec)
        return _State(done.weight, mask, *_error_and_gradient(weight, done.weight, c), done.grid)

    def _step(
        self,
        weight: Weight,
        at: "_State",
        c: Float[Tensor, "n n"],
        pattern: Pattern,
        density: float,
        spec: QuantizeSpec | None,
    ) -> "_State":
        safe = torch.ones((), dtype=weight.dtype)
        sizes = [_best_step(at.gradient * at.mask, c), safe] if self.adaptive else [safe]
        for size in sizes:
            moved = at.point + size * at.gradient
            mask = select_alive(pattern, moved.abs(), weight, density)
            new = self._state(weight, moved, mask, c, spec)
            if new.error <= at.error:
                break
        return new


@dataclass(frozen=True)
class _State:
    """An iterate, its error, and minus half the error's gradient, (W - T) C."""

    point: Weight
    mask: Mask
    error: float
    gradient: Weight
    grid: Grid | None = None


def _error_and_gradient(weight: Weight, point: Weight, c: Float[Tensor, "n n"]) -> tuple[float, Weight]:
    gradient = (weight - point) @ c
    return float((gradient * (weight - point)).sum()), gradient


def _best_step(gradient: Weight, c: Float[Tensor, "n n"]) -> Float[Tensor, "out 1"]:
    """The exact line search of each row along its gradient on the support, at least the safe step of 1."""
    curvature = ((gradient @ c) * gradient).sum(1, keepdim=True)
    length = gradient.square().sum(1, keepdim=True) / curvature.clamp_min(1e-30)
    return torch.where(curvature > 0, length, torch.ones_like(length)).clamp(1.0, 1e4)


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
