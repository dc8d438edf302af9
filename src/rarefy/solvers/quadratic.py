"""The loss around the weights that a model has, as a sparse regression on the gradients of single samples."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.solvers.fisher_rows import FisherRows, damped_cholesky


@dataclass(frozen=True)
class Refitted:
    """Weights (p,) that are best on their support, and the ridge that finding them took, n times the damping."""

    weight: Tensor
    ridge: float


@runtime_checkable
class Regression(Protocol):
    """A quadratic around the weights by what a search for a support asks of it; `Quadratic` says what each gives."""

    @abstractmethod
    def residual(self, weight: Tensor) -> Tensor: ...

    @abstractmethod
    def value(self, weight: Tensor, residual: Tensor | None = None) -> float: ...

    @abstractmethod
    def gradient(self, weight: Tensor, residual: Tensor) -> Tensor: ...

    @abstractmethod
    def curvature(self, direction: Tensor) -> float: ...


@dataclass(frozen=True)
class Quadratic:
    """Q(w) = 1/2 |G^T (w - c) + first e|^2 + ridge/2 |w - c|^2, which is n times the loss to second order.

    rows: G (p, n); center: c (p,), the weights as they are; first: share of the first-order term (1 the whole of it,
    0 takes the model to be at an optimum); ridge: n lambda; e holds ones.
    Source: Benbaki et al. 2023 (CHITA), arXiv:2302.14623, section 2 (y = A c - e).
    """

    rows: FisherRows
    center: Tensor
    ridge: float
    first: float = 0.0

    def residual(self, weight: Tensor) -> Tensor:
        """G^T (w - c) + first e: (n,) float64."""
        return self.rows.on_samples(weight - self.center) + self.first

    def value(self, weight: Tensor, residual: Tensor | None = None) -> float:
        """Q(w); residual: of the same weight where it is known already."""
        r = self.residual(weight) if residual is None else residual
        away = (weight - self.center).double()
        return 0.5 * float(r @ r) + 0.5 * self.ridge * float(away @ away)

    def gradient(self, weight: Tensor, residual: Tensor) -> Tensor:
        """G r + ridge (w - c): (p,) in the weights' type."""
        return self.rows.on_weights(residual).to(weight.dtype) + self.ridge * (weight - self.center)

    def curvature(self, direction: Tensor) -> float:
        """d^T H d = |G^T d|^2 + ridge |d|^2."""
        image = self.rows.on_samples(direction)
        return float(image @ image) + self.ridge * float(direction.double().square().sum())

    def best_on(self, mask: Tensor, gram: Tensor | None = None) -> Refitted:
        """argmin of Q over the weights on `mask` (p,), through an n x n system, whose ridge is raised where it fails.

        With t = -G_P^T c_P + first e for what is removed (P), the kept ones move by -G_S a,
        (G_S^T G_S + ridge I) a = t. gram: G_S^T G_S where it is known.
        """
        known = self.rows.gram(mask) if gram is None else gram
        lower, used = damped_cholesky(known, self.ridge)
        held = torch.where(mask, self.center, torch.zeros((), dtype=self.center.dtype))
        a = torch.cholesky_solve(self.residual(held)[:, None], lower)[:, 0]
        moved = self.center - self.rows.on_weights(a).to(self.center.dtype)
        return Refitted(torch.where(mask, moved, torch.zeros((), dtype=moved.dtype)), used)
