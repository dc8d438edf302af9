"""Single swaps of a regression's support, each judged by the refit that would follow it."""

import torch
from torch import Tensor

from rarefy.core.joint import Supports
from rarefy.patterns.block import Block
from rarefy.solvers.fisher_rows import damped_cholesky
from rarefy.solvers.quadratic import Quadratic, Refitted
from rarefy.solvers.rivals import rival_units

_CANDIDATES = 256  # on either side


def swap_pairs(quadratic: Quadratic, best: Refitted, supports: Supports, trials: int) -> tuple[Refitted, int]:
    """Swaps the best pair (i out, j in) while Q after the refit falls: (weights refitted, swaps).

    `best` is the optimum of its support S. With Z = G L^-T, L L^T = G_S^T G_S + ridge I, d_i = (1 - |z_i|^2) / ridge,
    s_j = ridge (1 + |z_j|^2) and r = z_i z_j, the refitted Q changes by
    w_i^2 / (2 d_i) - (g_j - w_i r / d_i)^2 / (2 (s_j + r^2 / d_i)): exact, from block elimination. The pair is the best
    of the kept weights that cost least and the others that bring most by themselves. Blocks have no single weights to
    swap: nothing is done.
    """
    if any(isinstance(site.pattern, Block) for site in supports.sites):
        return best, 0
    _, sets = rival_units(supports)
    alive, swaps = supports.alive, 0
    norms = quadratic.rows.square_norms() + quadratic.ridge
    for _ in range(trials):
        pair = _best_pair(quadratic, best.weight, sets, alive, norms)
        if pair is None:
            break
        mask = best.weight != 0
        mask[pair[0]], mask[pair[1]] = False, True
        best, swaps = quadratic.best_on(mask), swaps + 1
    return best, swaps


def _best_pair(
    quadratic: Quadratic, weight: Tensor, sets: Tensor, alive: Tensor, norms: Tensor
) -> tuple[int, int] | None:
    mask, w = weight != 0, weight.double()
    gradient = quadratic.gradient(weight, quadratic.residual(weight)).double()
    inside = _sorted_top(-w.square() * norms, mask)
    outside = _sorted_top(gradient.square() / norms, ~mask & alive)
    if len(inside) == 0 or len(outside) == 0:
        return None
    lower, ridge = damped_cholesky(quadratic.rows.gram(mask), quadratic.ridge)
    z_in, z_out = (
        torch.linalg.solve_triangular(lower, quadratic.rows.at(index).double().t(), upper=False).t()
        for index in (inside, outside)
    )
    d = ((1.0 - z_in.square().sum(1)).clamp_min(1e-12) / ridge)[:, None]
    s = (ridge * (1.0 + z_out.square().sum(1)))[None]
    r, lost = z_in @ z_out.t(), w[inside][:, None]
    change = lost.square() / (2 * d) - (gradient[outside][None] - lost * r / d).square() / (2 * (s + r.square() / d))
    change = change.masked_fill(sets[inside][:, None] != sets[outside][None], torch.inf)
    i, j = divmod(int(change.argmin()), len(outside))
    if float(change[i, j]) >= -1e-9 * quadratic.value(weight):
        return None
    return int(inside[i]), int(outside[j])


def _sorted_top(values: Tensor, among: Tensor) -> Tensor:
    index = among.nonzero()[:, 0]
    return index[values[index].topk(min(_CANDIDATES, len(index))).indices].sort().values
