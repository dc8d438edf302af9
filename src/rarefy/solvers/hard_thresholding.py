"""Iterative hard thresholding: gradient steps on a quadratic, each cut back to an allowed support."""

import torch
from torch import Tensor

from rarefy.core.joint import Supports
from rarefy.solvers.quadratic import Regression

_LONGER = 6  # how often a step is doubled in search of a lower value


def descend(quadratic: Regression, weight: Tensor, supports: Supports, iterations: int, tolerance: float) -> Tensor:
    """w <- P(w - tau grad Q(w)) while Q falls by more than `tolerance` of itself: the last w, on an allowed support.

    P keeps the allowed entries of largest square. Q along the projected path is quadratic while the support stays and
    jumps to the next piece where it changes: tau starts at the exact minimum for the support as it is (from a quarter
    of it) and doubles while Q falls.
    Source: Benbaki et al. 2023 (CHITA), arXiv:2302.14623, section 3.2 and algorithm 1.
    """
    mask = weight != 0
    residual = quadratic.residual(weight)
    value = quadratic.value(weight, residual)
    for _ in range(iterations):
        gradient = quadratic.gradient(weight, residual)
        step = _exact_step(quadratic, gradient, mask)
        found = _along(quadratic, weight, gradient, step, supports, value)
        if found is None:
            return weight
        before, (value, weight, residual) = value, found
        mask = weight != 0
        if before - value <= tolerance * before:
            return weight
    return weight


def _exact_step(quadratic: Regression, gradient: Tensor, mask: Tensor) -> float:
    """The tau that minimises Q on the support as it is: |g_S|^2 / (|G_S^T g_S|^2 + ridge |g_S|^2)."""
    inside = torch.where(mask, gradient, torch.zeros((), dtype=gradient.dtype))
    norm = float(inside.double().square().sum())
    if norm == 0.0:  # at the optimum of the support: the scale of the diagonal instead, to let others in
        inside = gradient
        norm = max(float(inside.double().square().sum()), 1e-300)
    return norm / max(quadratic.curvature(inside), 1e-300)


def _along(
    quadratic: Regression, weight: Tensor, gradient: Tensor, step: float, supports: Supports, value: float
) -> tuple[float, Tensor, Tensor] | None:
    """The best of the points at growing tau, None if none is below `value`."""
    best = None
    for power in range(-2, _LONGER):
        moved = weight - step * 2.0**power * gradient
        moved = moved * supports.nearest(moved)
        residual = quadratic.residual(moved)
        here = quadratic.value(moved, residual)
        if here < (value if best is None else best[0]):
            best = (here, moved, residual)
        elif best is not None and power >= 0:
            break
    return best
