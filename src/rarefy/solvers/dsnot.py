"""Dynamic sparse no training: exchanging weights of a mask until the mean output is right again."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.grouped_nm import GroupedNM
from rarefy.patterns.transposable import Transposable
from rarefy.scores.input_norm import InputNorm
from rarefy.solvers.scored import Scored

_BOUND = {
    GroupedNM: "each way to keep n of m has its count",
    Transposable: "each column of a tile has its count too",
}


@method("dsnot", role="solver", source="Zhang et al. 2023 (DSnoT), arXiv:2310.08915, eqs. 3-7")
@dataclass(frozen=True)
class DSnoT:
    """Exchanges kept and pruned weights of each row so that its expected output error e comes to zero.

    e = sum over the pruned k of W_k E[x_k], by row. A cycle grows the pruned weight with the largest
    sign(e) W_k E[x_k] / Var(x_k)^power, and prunes the kept one with the least |W_k| ||x_k|| among those with
    sign(e) W_k E[x_k] < 0 (for N:M within the same group); e changes by both. A row takes an exchange only if |e|
    falls, and rests when its sign turns or |e| is small. Weights do not change.

    start: the solver whose mask is improved; its weights are used where it changed them (SparseGPT).
    cycles: at most; threshold: |e| over the deviation sqrt(sum W_k^2 Var(x_k)) of what is pruned; power: of Var.
    Blocks are exchanged as a whole, e then being a vector over the rows of the block and |e| the sum of its sizes.
    Differs: the threshold 0.1 is relative, so that scaling inputs or weights changes nothing (the paper's is absolute,
    on sums over a sequence); an exchange that does not pay ends a row in the paper's code, here the next candidate is
    tried; weights that are already zero are not grown.
    """

    start: Solver = field(default_factory=lambda: Scored(InputNorm()))
    cycles: int = 50
    threshold: float = 0.1
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.threshold < 0 or self.power < 0:
            raise SparsityError(f"{self}: needs cycles >= 1, and threshold and power of at least 0")

    @property
    def needs(self) -> frozenset[Need]:
        return self.start.needs | {Need.INPUT_MEAN, Need.INPUT_SQNORM}

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        if isinstance(pattern, GroupedNM | Transposable):
            raise SparsityError(
                f"{evidence.site}: dsnot exchanges weights one by one within a row, which leaves {pattern}, "
                f"where {_BOUND[type(pattern)]}; use {pattern.n}:{pattern.m}, or wanda, sparsegpt or alps for {pattern}"
            )
        first = self.start(weight, pattern, density, evidence)
        values = torch.where(first.mask, first.weight, weight)  # what a pruned weight would come back as
        state = _State(values, first.mask, weight != 0, pattern, evidence, self.power)
        quiet = self.threshold * state.deviation
        before = float(state.error.abs().sum())
        swaps = 0
        for _ in range(self.cycles):
            rows = (state.awake & (state.error.abs().sum(1) > quiet)).nonzero().flatten()
            if len(rows) == 0:
                break
            swaps += state.exchange(rows)
        mask = state.mask() & (weight != 0)
        after = float(state.error.abs().sum())
        result = {**first.result, "swaps": swaps, "mean_error_before": before, "mean_error_after": after}
        return Solution(values * mask, mask, result)


class _State:
    """Bands of rows by tiles of columns: what each tile adds to the mean output, and which are kept.

    A tile is the pattern's granularity, one weight for unstructured and N:M patterns.
    """

    def __init__(
        self, weight: Weight, mask: Tensor, alive: Tensor, pattern: Pattern, evidence: Evidence, power: float
    ) -> None:
        self.tile, self.shape = pattern.granularity, weight.shape
        if pattern.span is not None:  # N:M: single weights, exchanged within their group
            self.tile = (1, 1)
        mean = evidence[Need.INPUT_MEAN].to(weight.dtype)
        square = evidence[Need.INPUT_SQNORM].to(weight.dtype)
        variance = (square.double() / max(1, evidence.tokens) - mean.double().square()).clamp_min(0).to(weight.dtype)
        drift, spread = weight * mean, weight.square() * variance
        self.adds = self._tiles(drift).sum(3)  # (bands, r, tiles)
        floor = variance.max().clamp_min(1e-30) * 1e-6  # an input that never varies has no infinite worth
        self.worth = self._tiles(drift / variance.clamp_min(floor).pow(power)).sum(3)
        self.cost = self._tiles(weight.abs() * square.sqrt()).sum((1, 3))  # (bands, tiles)
        self.kept = self._tiles(mask).any(3).any(1)
        self.free = self._tiles(alive).any(3).any(1)  # not zero already and not exchanged yet
        gone = ~self.kept & self.free
        self.error = (self.adds * gone[:, None]).sum(2)  # (bands, r)
        self.deviation = ((self._tiles(spread).sum(3) * gone[:, None]).sum(2)).sqrt().sum(1)
        self.sign = self.error.sign()
        self.awake = torch.ones(len(self.error), dtype=torch.bool)
        self.group = pattern.span

    def _tiles(self, values: Tensor) -> Tensor:
        (rows, n), (r, c) = self.shape, self.tile
        return values.reshape(rows // r, r, n // c, c)

    def exchange(self, rows: Tensor) -> int:
        """One exchange in each of these bands; how many were taken."""
        sign, kept, free = self.error[rows].sign(), self.kept[rows], self.free[rows]
        along = (self.worth[rows] * sign[:, :, None]).sum(1).masked_fill(kept | ~free, -torch.inf)
        gain, grow = along.max(1)
        against = (self.adds[rows] * sign[:, :, None]).sum(1)
        may_go = kept & free & (against < 0)
        if self.group is not None:
            may_go &= torch.arange(kept.shape[1]) // self.group == (grow // self.group)[:, None]
        price, drop = self.cost[rows].masked_fill(~may_go, torch.inf).min(1)
        there = (gain > 0) & price.isfinite()
        at = torch.arange(len(rows))
        adds = self.adds[rows]
        after = self.error[rows] + adds[at, :, drop] - adds[at, :, grow]
        taken = there & (after.abs().sum(1) < self.error[rows].abs().sum(1))
        self.awake[rows[gain <= 0]] = False
        if self.group is None:
            self.awake[rows[price.isinf()]] = False
        self.free[rows, grow] = False
        changed = rows[taken]
        self.free[changed, drop[taken]] = False
        self.kept[changed, grow[taken]] = True
        self.kept[changed, drop[taken]] = False
        self.error[changed] = after[taken]
        turned = (self.error[changed].sign() * self.sign[changed]).sum(1) <= 0
        self.awake[changed[turned]] = False
        return int(taken.sum())

    def mask(self) -> Tensor:
        r, c = self.tile
        bands, tiles = self.kept.shape
        return self.kept[:, None, :, None].expand(bands, r, tiles, c).reshape(self.shape)
