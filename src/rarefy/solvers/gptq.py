"""GPTQ: one sweep over the columns that prunes and rounds, each error spread over the columns to its right."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Mask, Weight
from rarefy.solvers.column_budget import ColumnBudget
from rarefy.solvers.damping import DampedInverse, damped_inverse
from rarefy.solvers.rounding_sweep import Columns, rounding_sweep
from rarefy.solvers.sparsegpt import SparseGPT, chosen_columns


@method(
    "gptq",
    role="solver",
    source="Frantar et al. 2022 (GPTQ), arXiv:2210.17323, algorithm 1; with a mask: arXiv:2301.00774, section 3.5",
)
@dataclass(frozen=True)
class GPTQ:
    """SparseGPT's sweep that also rounds: what a column leaves on the table, its successors make up for.

    H = X^T X + lambda I, U = upper Cholesky factor of H^-1. Column j from left to right: w_j becomes t_j, zero where
    it is dropped and the nearest multiple of its scale where it stays; e = (w_j - t_j) / U_jj and the columns k > j
    get w_k -= e U_jk. Masks are chosen as by SparseGPT; the scales of a group when the sweep reaches it, from the
    weights that are to stay there (`core.grid.fit_scales`, errors counted by 1 / U_jj^2).

    quantize: what to round to; columns, damping: as of SparseGPT. A block is a whole number of groups.
    Differs: counts are exact over the layer and zeros stay, as in `SparseGPT`; columns are not sorted by their inputs'
    size, which would tear groups apart; scales have 8 significant bits.
    """

    quantize: QuantizeSpec = field(default_factory=QuantizeSpec)
    columns: int = 128
    damping: float = 0.01
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_GRAM})

    def __post_init__(self) -> None:
        if self.columns < 1 or self.damping < 0:
            raise SparsityError(f"{self}: needs columns >= 1 and damping >= 0")

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        self.quantize.require(weight.shape[1], evidence.site)
        inverse = damped_inverse(evidence[Need.INPUT_GRAM], self.damping, evidence.site)
        plain = partial(SparseGPT(self.columns, self.damping), weight, pattern, density, evidence)
        columns = _Chosen(weight, pattern, density, inverse, plain)
        done = rounding_sweep(weight, inverse, self.quantize, self.columns, columns)
        return Solution(done.weight, done.mask, {"damping": inverse.damping}, grid=done.grid)


class _Chosen(Columns):
    """Which weights stay by the OBS saliency of the columns as updated so far."""

    def __init__(
        self,
        weight: Weight,
        pattern: Pattern,
        density: float,
        inverse: DampedInverse,
        unrounded: Callable[[], Solution],
    ) -> None:
        self.tile, self.span = pattern.granularity[1], pattern.span
        self._pattern, self._density, self._dead = pattern, density, inverse.dead
        self._pivots = inverse.upper.diagonal().to(weight.dtype)
        self._gone = (weight == 0).t()
        self._unrounded, self._budget = unrounded, ColumnBudget(weight, pattern, density)
        self._share = density

    def block(self, start: int, end: int) -> None:
        self._share = self._budget.share(start, end)

    def kept(self, w: Float[Tensor, "width rows"], start: int) -> Tensor:
        part = slice(start, start + len(w))
        live = w.masked_fill(self._gone[part], 0.0)
        return chosen_columns(self._pattern, live, self._pivots[part], self._share, self._dead[part])

    def first_guess(self) -> tuple[Weight, Mask]:
        """Without rounding: kept weights grow while they make up for those that go, and a scale has to hold them."""
        solution = self._unrounded()
        return solution.weight, solution.mask
