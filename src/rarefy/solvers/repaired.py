"""Least-squares repair of weights and bias after any solver: the mask stays, what is kept makes up for what went."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Weight
from rarefy.solvers.reconstruction import refit


def bias_shift(before: Weight, after: Weight, mean: Float[Tensor, "n"]) -> Float[Tensor, "out"]:
    """(W - V) E[x]: the bias that makes sum |(W - V) x - b|^2 least, given V."""
    return (before - after) @ mean.to(before.dtype)


@method(
    "repaired",
    role="solver",
    source="He et al. 2017, arXiv:1707.06168, eq. 2; bias: Nagel et al. 2019, arXiv:1906.04721",
)
@dataclass(frozen=True)
class Repaired:
    """Any solver's mask, then min over V on it (and over a bias b) of sum |W x - V x - b|^2.

    weights: refit V, on the Gram H, or with a bias on the centred one H - T m m^T (m = E[x], T tokens), since the
    best bias (W - V) m takes the mean out of the problem. bias: give that bias. One of the two has to be asked for.
    Where `weights` is not, V is the solver's.
    damping: ridge over the mean of the Gram's diagonal, raised where it is too little and reported as repair_damping;
    iterations, tolerance: of the conjugate gradients.
    Without more in the data than the kept weights give already, nothing changes.
    """

    solver: Solver
    weights: bool = True
    bias: bool = False
    damping: float = 0.01
    iterations: int = 100
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.weights or self.bias):
            raise SparsityError(f"{self}: nothing to repair; ask for weights=True, bias=True or both")
        if self.damping < 0 or self.iterations < 1 or self.tolerance <= 0:
            raise SparsityError(f"{self}: needs damping >= 0, iterations >= 1 and tolerance > 0")
        if self.weights and Need.WANTED_CROSS in self.solver.needs:
            raise SparsityError(f"{self.solver}: refits its weights itself, to the dense model; leave weights= out")

    @property
    def needs(self) -> frozenset[Need]:
        more = {Need.INPUT_GRAM} if self.weights else set()
        return self.solver.needs | more | ({Need.INPUT_MEAN} if self.bias else set())

    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        solution = self.solver(weight, pattern, density, evidence)
        kept, result = solution.weight, dict(solution.result)
        if self.weights:
            gram = self._gram(evidence)
            asked = (self.damping, self.iterations, self.tolerance)
            done = refit(weight, solution.mask, gram, *asked, evidence.site)
            kept = done.weight * solution.mask
            result |= {
                "repair_damping": done.damping,
                "repair_iterations": done.steps,
                "repair_residual": done.residual,
            }
        shift = bias_shift(weight, kept, evidence[Need.INPUT_MEAN]) if self.bias else solution.shift
        return Solution(kept, solution.mask, result, shift)

    def _gram(self, evidence: Evidence) -> Tensor:
        """The Gram of the inputs, centred where a bias takes the mean away."""
        gram = evidence[Need.INPUT_GRAM]
        if not self.bias:
            return gram
        mean = evidence[Need.INPUT_MEAN].double()
        return (gram.double() - evidence.tokens * torch.outer(mean, mean)).to(gram.dtype)
