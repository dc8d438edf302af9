"""The same sparse regression with the Fisher cut down to diagonal blocks, so that each block is refitted by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.solvers.fisher_rows import FisherRows, damped_cholesky
from rarefy.solvers.quadratic import Refitted


@dataclass(frozen=True)
class BlockQuadratic:
    """Q(w) = sum over blocks b of 1/2 |G_b^T (w_b - c_b) + first e|^2 + ridge/2 |w_b - c_b|^2, see `Quadratic`.

    A block is `block` consecutive weights of a site, or what is left at its end. Weights of two blocks no longer make
    up for each other, so few samples are enough for many weights: a block has about as many of both.
    Source: Benbaki et al. 2023 (CHITA), arXiv:2302.14623, section 3.3 (block approximation).
    """

    rows: FisherRows
    center: Tensor
    ridge: float
    first: float
    block: int

    def residual(self, weight: Tensor) -> Tensor:
        """G_b^T (w_b - c_b) + first e of each block: (blocks, n) float64."""
        away = weight - self.center
        images = [away[where].to(g.dtype) @ g for where, g in self.rows.chunks(self.block)]
        return torch.stack(images).double() + self.first

    def value(self, weight: Tensor, residual: Tensor | None = None) -> float:
        """Q(w); residual: of the same weight where it is known already."""
        r = self.residual(weight) if residual is None else residual
        away = (weight - self.center).double()
        return 0.5 * float(r.square().sum()) + 0.5 * self.ridge * float(away @ away)

    def gradient(self, weight: Tensor, residual: Tensor) -> Tensor:
        """G_b r_b + ridge (w - c): (p,) in the weights' type."""
        chunks = zip(self.rows.chunks(self.block), residual, strict=True)
        raised = torch.cat([g @ r.to(g.dtype) for (_, g), r in chunks])
        return raised.to(weight.dtype) + self.ridge * (weight - self.center)

    def curvature(self, direction: Tensor) -> float:
        """d^T H d: the sum over blocks of |G_b^T d_b|^2, + ridge |d|^2."""
        total = self.ridge * float(direction.double().square().sum())
        for where, g in self.rows.chunks(self.block):
            total += float((direction[where].to(g.dtype) @ g).double().square().sum())
        return total

    def best_on(self, mask: Tensor) -> Refitted:
        """argmin of Q over the weights on `mask` (p,), block by block, and the largest ridge of a block."""
        most = self.ridge
        found = torch.where(mask, self.center, torch.zeros((), dtype=self.center.dtype))
        held = self.residual(found)
        for (where, g), r in zip(self.rows.chunks(self.block), held, strict=True):
            kept = mask[where]
            if kept.any():
                move, used = _move(g[kept], r, self.ridge)
                found[where][kept] += move.to(found.dtype)
                most = max(most, used)
        return Refitted(found, most)


def _move(rows: Tensor, residual: Tensor, ridge: float) -> tuple[Tensor, float]:
    """-(G G^T + ridge I)^-1 G r for rows G (k, n), by the smaller of the k x k and the n x n system: (k,) float64.

    And the ridge that it took.
    """
    k, n = rows.shape
    if k <= n:
        lower, used = damped_cholesky((rows @ rows.t()).double(), ridge)
        return -torch.cholesky_solve((rows.double() @ residual)[:, None], lower)[:, 0], used
    lower, used = damped_cholesky((rows.t() @ rows).double(), ridge)
    return -(rows.double() @ torch.cholesky_solve(residual[:, None], lower)[:, 0]), used
