"""Which weights to remove together: a search that swaps removed for kept while their joint loss falls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.joint import Supports
from rarefy.solvers.fisher_rows import FisherRows
from rarefy.solvers.rivals import rival_units

_CANDIDATES = 256  # on either side, of one round


@dataclass(frozen=True)
class Swaps:
    """S(P) = 1/2 w_P^T H_PP w_P over removed weights P, H = G G^T / n + lambda I, in units that go together.

    rows: w_i G_i summed over the weights of each unit, (units, n); norms: lambda times their sum of squared weights;
    sets: units of one set compete. With u = sum of the rows removed: S = (|u|^2 / n + sum of norms) / 2.
    """

    rows: Tensor
    norms: Tensor
    unit: Tensor
    sets: Tensor
    alive: Tensor  # (units,) bool: has a weight that was not zero from the start

    def removed(self, mask: Tensor) -> Tensor:
        """(units,) bool from a mask over weights (p,)."""
        kept = torch.zeros(len(self.sets), dtype=torch.long).index_add_(0, self.unit, mask.long())
        return kept == 0

    def loss(self, removed: Tensor) -> float:
        u = removed.to(self.rows.dtype) @ self.rows
        return 0.5 * float(u.double() @ u.double()) / self.rows.shape[1] + 0.5 * float(self.norms[removed].sum())

    def search(self, mask: Tensor, rounds: int, least: float) -> tuple[Tensor, int]:
        """A mask (p,) of as many weights and no larger S, and how many swaps led there.

        A round takes the removed units that are dearest to remove and the kept ones that are cheapest, and swaps the
        best pair of them while S falls by more than `least` of its first value, inner products kept up to date.
        """
        removed = self.removed(mask)
        floor, swaps = least * max(self.loss(removed), 1e-300), 0
        for _ in range(rounds):
            done = self._round(removed, floor)
            swaps += done
            if done == 0:
                break
        return ~removed[self.unit], swaps

    def _round(self, removed: Tensor, floor: float) -> int:
        """Swaps in place; how many. Paper: alpha of removed i, beta of kept j, the change is -alpha + beta - gamma."""
        n = self.rows.shape[1]
        u = removed.to(self.rows.dtype) @ self.rows
        shared = (self.rows @ u).double() / n  # c_i u / n
        half = 0.5 * (self.rows.double().square().sum(1) / n + self.norms)
        alpha, beta = shared - half + self.norms, shared + half
        leaving, entering = self._candidates(alpha, beta, removed)
        if len(leaving) == 0 or len(entering) == 0:
            return 0
        both = torch.cat([leaving, entering])
        inner = (self.rows[both] @ self.rows[both].t()).double() / n
        a, b = alpha[leaving].clone(), beta[entering].clone()
        apart = self.sets[leaving][:, None] != self.sets[entering][None]
        gain = (a[:, None] - b[None] + inner[: len(a), len(a) :]).masked_fill(apart, -torch.inf)
        done = 0
        while float(gain.max()) > floor:
            i, j = divmod(int(gain.argmax()), len(b))
            removed[leaving[i]], removed[entering[j]] = False, True
            move = inner[:, len(a) + j] - inner[:, i]
            gain += move[: len(a), None] - move[None, len(a) :]
            gain[i, :], gain[:, j] = -torch.inf, -torch.inf
            done += 1
        return done

    def _candidates(self, alpha: Tensor, beta: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
        """Units with the most to gain from leaving (entering) the removed, given the best partner of their set."""
        sets = int(self.sets.max()) + 1
        out, into = removed & self.alive, ~removed
        cheapest = torch.full((sets,), torch.inf, dtype=beta.dtype)
        cheapest = cheapest.scatter_reduce(0, self.sets[into], beta[into], "amin")
        dearest = torch.full((sets,), -torch.inf, dtype=alpha.dtype)
        dearest = dearest.scatter_reduce(0, self.sets[out], alpha[out], "amax")
        return (
            _best(alpha - cheapest[self.sets], out, _CANDIDATES),
            _best(dearest[self.sets] - beta, into, _CANDIDATES),
        )


def _best(gain: Tensor, among: Tensor, count: int) -> Tensor:
    index = among.nonzero()[:, 0]
    index = index[gain[index] > -torch.inf]
    return index[gain[index].topk(min(count, len(index))).indices]


def swaps_of(rows: FisherRows, weight: Tensor, supports: Supports, damping: float) -> Swaps:
    """Takes as many bytes as the gradients, since each is multiplied with its weight."""
    unit, sets = rival_units(supports)
    columns = torch.zeros(len(sets), rows.samples, dtype=rows.parts[0].dtype)
    for where, part in rows.chunks():
        columns.index_add_(0, unit[where], part * weight[where, None].to(part.dtype))
    norms = torch.zeros(len(sets), dtype=torch.float64).index_add_(0, unit, damping * weight.double().square())
    alive = torch.zeros(len(sets), dtype=torch.long).index_add_(0, unit, supports.alive.long()) > 0
    return Swaps(columns, norms, unit, sets, alive)
