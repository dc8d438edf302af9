"""WoodFisher: the surgeon's step with the inverse of the empirical Fisher information, in blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import JointSolution, Supports, alone
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.solvers.fisher_inverse import BlockInverse, row_inverse
from rarefy.solvers.fisher_rows import fisher_rows
from rarefy.solvers.surgeon import operate


@method("woodfisher", role="solver", source="Singh and Alistarh 2020 (WoodFisher), arXiv:2004.14340, section 3.2")
@dataclass(frozen=True)
class WoodFisher:
    """Removes weights by w^2 / (2 [F^-1]_qq) and lets the others make up for each, F = lambda I + mean g g^T.

    damping: the paper's lambda, absolute; block: consecutive weights of a layer whose Fisher block is inverted,
    None for the whole matrix over all layers, which is held as n x n inner products (see `RowInverse`).
    Differs: damping is 1e-3 unless said otherwise, since the paper's 1e-5 is too little for some hundred samples; the
    repairs of weights that go together are added up, as in the paper's code; `cbs` repairs jointly.
    """

    damping: float = 1e-3
    block: int | None = 256
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PER_SAMPLE_GRADIENT})

    def __post_init__(self) -> None:
        if self.damping <= 0 or (self.block is not None and self.block < 1):
            raise SparsityError(f"{self}: needs damping > 0 and block >= 1, or block=None for the whole matrix")

    def together(self, weight: Tensor, supports: Supports, evidence: Sequence[Evidence]) -> JointSolution:
        rows = fisher_rows(supports, evidence)
        if self.block is not None:
            blocks = BlockInverse(rows, self.damping, self.block)  # the recursion starts at I / lambda and cannot fail
            return replace(operate(weight, supports, blocks), result={"damping": self.damping})
        inverse = row_inverse(rows, self.damping)
        return replace(operate(weight, supports, inverse), result={"damping": inverse.damping})

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        return alone(self, weight, pattern, density, evidence)
