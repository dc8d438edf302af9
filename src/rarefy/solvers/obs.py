"""The exact surgeon on the rows of a layer: one weight at a time, the rest refitted after each."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.core.topk import keep_top
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.solvers.damping import damped_inverse
from rarefy.solvers.obs_state import Bands

_AT_ONCE = 1 << 25  # entries of the rows' inverses held at once (256 MB)


@method(
    "obs", role="solver", source="Hassibi and Stork 1992; Frantar and Alistarh 2022 (OBC), arXiv:2208.11580, alg. 1-2"
)
@dataclass(frozen=True)
class OBS:
    """Exact greedy removal on each row of |X w - X v|^2: the weight of least saliency goes, the others adapt.

    A row (for blocks a band of rows) is pruned with its own inverse Hessian, n^2 numbers. Rowwise and fan-in stop each
    row at its count, N:M passes over groups that have lost all they may. Layerwise and blocks first trace the loss of
    every removal down to nothing, then take the removals that are cheapest over the whole layer.
    damping: over the mean of the Gram's diagonal. Costs n^3 a row.
    """

    damping: float = 0.01
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_GRAM})

    def __post_init__(self) -> None:
        if self.damping < 0:
            raise SparsityError(f"{self}: needs damping >= 0")

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        found = damped_inverse(evidence[Need.INPUT_GRAM], self.damping, evidence.site)
        inverse = found.upper.t() @ found.upper
        if not isinstance(pattern, Layerwise | Rowwise | FanIn | NM | Block):
            raise SolverError(
                f"{evidence.site}: the exact surgeon does not know which weights go together under {pattern}; "
                "use an unstructured, row-wise, fan-in, N:M or block pattern, or the solver sparsegpt"
            )
        r, c = pattern.granularity if isinstance(pattern, Block) else (1, 1)
        rows, n = weight.shape
        bands = weight.reshape(rows // r, r, n)
        if isinstance(pattern, Layerwise | Block):
            counts = _cheapest(bands, inverse, found.dead, c, pattern.count(rows, n, density) // (r * c))
            spared = None
        else:
            counts = torch.full((rows,), pattern.count(1, n, density))
            spared = (pattern.m, pattern.n) if isinstance(pattern, NM) else None
        parts = [_prune(some, inverse, found.dead, c, kept, spared) for some, kept in _chunks(bands, counts)]
        v = torch.cat([w for w, _ in parts]).reshape(rows, n)
        left = torch.cat([m for _, m in parts])  # (bands, n / c)
        mask = left[:, None, :, None].expand(-1, r, -1, c).reshape(rows, n) & (weight != 0)
        return Solution((v * mask).to(weight.dtype), mask, {"damping": found.damping})


def _chunks(bands: Tensor, counts: Tensor) -> list[tuple[Tensor, Tensor]]:
    width = max(1, _AT_ONCE // bands.shape[2] ** 2)
    return list(zip(bands.split(width), counts.split(width), strict=True))


def _start(bands: Tensor, inverse: Tensor, dead: Tensor, c: int) -> Bands:
    count, r, n = bands.shape
    gone = (bands == 0).reshape(count, r, n // c, c).all(3).all(1)
    return Bands(bands, inverse, c, gone, dead)


def _prune(
    bands: Tensor, inverse: Tensor, dead: Tensor, c: int, counts: Tensor, spared: tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """Weights (bands, r, n) and tiles left (bands, n / c) with `counts` tiles kept in each band, all zero ones gone.

    spared: (m, n), n of every m tiles are to stay.
    """
    state = _start(bands, inverse, dead, c)
    tiles = state.gone.shape[1]
    goal = torch.maximum(tiles - counts, state.gone.sum(1))
    if spared is not None:  # a group that has lost more than it may already leaves the others what they may lose
        m, n = spared
        goal = state.gone.reshape(len(state.gone), -1, m).sum(2).clamp_min(m - n).sum(1)
    for step in range(int(goal.max()) if len(goal) else 0):
        active = goal > step
        cost = state.saliency()
        if spared is not None:
            cost = cost.masked_fill(_full(state, *spared), torch.inf)
        state.remove(cost.argmin(1), active)
    return state.weight, state.left


def _full(state: Bands, m: int, n: int) -> Tensor:
    """Whether no tile of the group may go any more, except those that were zero: (bands, tiles)."""
    groups = state.left.reshape(len(state.left), -1, m)
    full = groups.sum(2, keepdim=True).expand_as(groups) <= n
    return full.reshape(state.left.shape) & ~state.gone


def _cheapest(bands: Tensor, inverse: Tensor, dead: Tensor, c: int, kept: int) -> Tensor:
    """How many tiles each band keeps if the cheapest removals of all traces are taken, `kept` tiles staying.

    A removal cannot come before the ones that its loss was computed after, so it costs at least as much as any of
    them: that is the order in which a heap of next removals would give them out (OBC, algorithm 2).
    """
    traces = torch.cat([_trace(some, inverse, dead, c) for some, _ in _chunks(bands, torch.zeros(len(bands)))])
    scores = traces.cummax(1).values.flip(1)  # ties leave the later removal in
    return keep_top(scores.reshape(1, -1), kept).reshape(scores.shape).sum(1)


def _trace(bands: Tensor, inverse: Tensor, dead: Tensor, c: int) -> Tensor:
    """Loss of each removal in order, down to the last tile: (bands, n / c); minus infinity for tiles that were zero."""
    state = _start(bands, inverse, dead, c)
    everywhere = torch.ones(len(bands), dtype=torch.bool)
    losses = []
    for _ in range(state.gone.shape[1]):
        least = state.saliency().min(1)
        losses.append(least.values)
        state.remove(least.indices, everywhere)
    return torch.stack(losses, 1) if losses else torch.full((len(bands), 0), -math.inf)
