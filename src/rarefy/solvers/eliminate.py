"""Backward elimination: weights go in rungs by the surgeon's saliency, and all that is left is refitted after each."""

import torch
from torch import Tensor

from rarefy.core.joint import Supports
from rarefy.solvers.fisher_rows import damped_cholesky
from rarefy.solvers.quadratic import Quadratic


def eliminate(quadratic: Quadratic, supports: Supports, rungs: int) -> Tensor:
    """The mask (p,) after `rungs` removals of the least w_q^2 / [H_SS^-1]_qq, S what is left, w refitted on S.

    With as many rungs as weights to remove that is the greedy surgeon (Hassibi and Stork 1992), one weight at a time.
    """
    mask = supports.alive
    for rung in range(1, rungs + 1):
        gram = quadratic.rows.gram(mask)
        weight = quadratic.best_on(mask, gram).weight.double()
        scores = weight.square() / inverse_diagonal(quadratic, mask, gram)
        mask = supports.looser(rung / rungs).select(scores.masked_fill(~mask, -torch.inf)) & mask
    return mask


def inverse_diagonal(quadratic: Quadratic, mask: Tensor, gram: Tensor) -> Tensor:
    """Diagonal of (G_S G_S^T + ridge I)^-1 on the weights S of `mask`, 1 elsewhere: (p,) float64."""
    lower, used = damped_cholesky(gram, quadratic.ridge)
    found = torch.ones(len(mask), dtype=torch.float64)
    for where, rows in quadratic.rows.chunks():
        chosen = mask[where]
        z = torch.linalg.solve_triangular(lower, rows[chosen].double().t(), upper=False)
        inside = torch.ones(len(rows), dtype=torch.float64)
        inside[chosen] = (1.0 - z.square().sum(0)).clamp_min(1e-12) / used
        found[where] = inside
    return found
