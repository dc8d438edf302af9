"""SparseGPT: one sweep over the columns, each pruned weight's error spread over the columns to its right."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Bool, Float, Weight
from rarefy.solvers.alive import select_alive
from rarefy.solvers.column_budget import ColumnBudget
from rarefy.solvers.damping import damped_inverse


def column_blocks(n: int, width: int, pattern: Pattern) -> list[tuple[int, int]]:
    """Column ranges of about `width`, each a whole number of the pattern's tiles."""
    step = max(1, width // pattern.granularity[1]) * pattern.granularity[1]
    return [(i, min(n, i + step)) for i in range(0, n, step)]


def chosen_columns(
    pattern: Pattern, columns: Float[Tensor, "width rows"], pivots: Float[Tensor, "width"], density: float, dead: Tensor
) -> Bool[Tensor, "width rows"]:
    """Which weights of some columns stay, by the OBS saliency w^2 / [U_jj]^2."""
    scores = (columns / pivots[:, None]).square().masked_fill(dead[:, None], 0.0)
    return select_alive(pattern, scores.t().contiguous(), columns.t(), density).t()


@method("sparsegpt", role="solver", source="Frantar and Alistarh 2023 (SparseGPT), arXiv:2301.00774, algorithm 1")
@dataclass(frozen=True)
class SparseGPT:
    """OBS pruning with one inverse for all rows.

    H = X^T X + lambda I, U = upper Cholesky factor of H^-1. Column j from left to right: a weight that is
    dropped has the error e = w / U_jj; the columns k > j of its row get w_k -= e * U_jk. The mask of a block of
    `columns` columns is chosen when the sweep reaches it (for N:M when it reaches the group), among the weights
    as updated so far, by the smallest w^2 / U_jj^2.

    columns: block width (the paper's B_s = 128); damping: lambda over the mean of the diagonal, raised tenfold
    if the factorisation fails and reported in the result.
    Differs: counts are exact over the layer (a block gets its part of what the blocks before it left); weights
    that are zero already stay zero, and blocks share the count by the weights that they still have.
    """

    columns: int = 128
    damping: float = 0.01
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_GRAM})

    def __post_init__(self) -> None:
        if self.columns < 1 or self.damping < 0:
            raise SparsityError(f"{self}: needs columns >= 1 and damping >= 0")

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        n = weight.shape[1]
        inverse = damped_inverse(evidence[Need.INPUT_GRAM], self.damping, evidence.site)
        upper = inverse.upper.to(weight.dtype)
        gone = (weight == 0).t()
        w = weight.t().contiguous()  # (n, rows): a column of W is a contiguous row here
        mask = torch.empty_like(w, dtype=torch.bool)
        budget = ColumnBudget(weight, pattern, density)
        for start, end in column_blocks(n, self.columns, pattern):
            share = budget.share(start, end)
            mask[start:end] = self._sweep(w, upper, gone, inverse.dead, pattern, share, start, end)
        kept = mask.t().contiguous()
        return Solution(w.t().contiguous() * kept, kept, {"damping": inverse.damping})

    def _sweep(
        self,
        w: Float[Tensor, "n rows"],
        upper: Float[Tensor, "n n"],
        gone: Tensor,
        dead: Tensor,
        pattern: Pattern,
        density: float,
        start: int,
        end: int,
    ) -> Bool[Tensor, "width rows"]:
        """Prunes the columns [start, end) in place, updates all columns after, returns the mask of the block."""
        block = w[start:end]
        u, pivots = upper[start:end, start:end], upper.diagonal()[start:end]
        span = pattern.span or end - start
        keep = torch.empty_like(block, dtype=torch.bool)
        errors = torch.empty_like(block)
        for j in range(end - start):
            if j % span == 0:
                part = slice(j, j + span)
                live = block[part].masked_fill(gone[start:end][part], 0.0)
                keep[part] = chosen_columns(pattern, live, pivots[part], density, dead[start:end][part])
            errors[j] = block[j].masked_fill(keep[j], 0.0) / pivots[j]
            block[j + 1 :].addr_(u[j, j + 1 :], errors[j], alpha=-1.0)
        w[end:].addmm_(upper[start:end, end:].t(), errors, alpha=-1.0)
        return keep
