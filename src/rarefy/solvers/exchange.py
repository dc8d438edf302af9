"""Exchange of many weights of a mask at once, refitted and judged after each."""

import torch
from torch import Tensor

from rarefy.core.joint import Supports
from rarefy.solvers.eliminate import inverse_diagonal
from rarefy.solvers.quadratic import Quadratic, Refitted


def exchange(
    quadratic: Quadratic, best: Refitted, supports: Supports, trials: int, tolerance: float = 1e-6
) -> tuple[Refitted, int]:
    """Lets weights in and out of the support while Q falls: (weights refitted, exchanges that were kept).

    `best` is the optimum of its support. Each weight is scored by what it is worth there: kept ones by
    w_i^2 / (2 [H_SS^-1]_ii), by how much Q rises without them, others by g_j^2 / (2 H_jj), by how much it falls with
    them alone. The scores of a share of the dearest strangers compete with those of the kept; the share halves when the
    refitted Q is not lower.
    """
    value, share, kept = quadratic.value(best.weight), 1.0, 0
    diagonal = quadratic.rows.square_norms() + quadratic.ridge
    known: Tensor | None = None
    for _ in range(trials):
        mask = best.weight != 0
        if share * int(mask.count_nonzero()) < 1:
            break
        if known is None:
            known = _worth(quadratic, best.weight, mask, diagonal)
        trial = supports.select(_with_strangers(known, mask, share))
        moved = quadratic.best_on(trial)
        here = quadratic.value(moved.weight)
        if here < value * (1.0 - tolerance):
            best, value, kept, known = moved, here, kept + 1, None
        else:
            share /= 4
    return best, kept


def _worth(quadratic: Quadratic, weight: Tensor, mask: Tensor, diagonal: Tensor) -> Tensor:
    inside = weight.double().square() / inverse_diagonal(quadratic, mask, quadratic.rows.gram(mask))
    gradient = quadratic.gradient(weight, quadratic.residual(weight)).double()
    return torch.where(mask, inside, gradient.square() / diagonal)


def _with_strangers(worth: Tensor, mask: Tensor, share: float) -> Tensor:
    """The worth, that of all strangers but the dearest `share` of as many as are kept set to nothing."""
    strangers = worth.masked_fill(mask, -torch.inf)
    count = min(max(1, int(share * int(mask.count_nonzero()))), int((~mask).count_nonzero()))
    if count == 0:
        return worth
    least = strangers.topk(count).values[-1]
    return torch.where(mask | (strangers >= least), worth, -1.0)
