import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Solver
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.corrected import Corrected
from rarefy.solvers.repaired import Repaired
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.problems import correlated


def problem() -> tuple[Tensor, Tensor]:
    weight, x = correlated()
    return weight, x + 6.0 * torch.randn(x.shape[1], generator=torch.Generator().manual_seed(8))


def lost(solver: Solver) -> float:
    """Squared output error with the bias that the solver gives."""
    weight, x = problem()
    found = solver(weight, Layerwise(), 0.4, evidence_of(weight, x))
    shift = torch.zeros(len(weight)) if found.shift is None else found.shift
    return float(((weight - found.weight) @ x.t() - shift[:, None]).square().sum())


PLAIN = Scored(Magnitude())
WEIGHTS, BIAS = Repaired(PLAIN), Repaired(PLAIN, weights=False, bias=True)
BOTH = Repaired(PLAIN, weights=True, bias=True, damping=1e-4, iterations=500, tolerance=1e-6)


@pytest.mark.parametrize("solver", [WEIGHTS, BIAS, BOTH])
def test_each_repair_beats_the_mask_alone(solver: Solver) -> None:
    def half_the_error(tried: Solver) -> None:
        assert lost(tried) < 0.7 * lost(PLAIN)

    assert_beats_impostor(half_the_error, solver, PLAIN)
    assert lost(BOTH) < lost(WEIGHTS)
    assert lost(BOTH) < lost(BIAS)


def test_weights_and_bias_together_are_the_least_squares_solution() -> None:
    """Against numpy: each row on its kept columns and a column of ones."""
    weight, x = problem()
    found = BOTH(weight, Layerwise(), 0.4, evidence_of(weight, x))
    inputs, best = x.double().numpy(), 0.0
    for row, keep in zip(weight.double().numpy(), found.mask.numpy(), strict=True):
        design = np.column_stack([inputs[:, keep], np.ones(len(inputs))])
        solved = np.linalg.lstsq(design, inputs @ row, rcond=None)[0]
        best += float(np.sum((inputs @ row - design @ solved) ** 2))
    assert lost(BOTH) == pytest.approx(best, rel=0.02)


def test_the_mask_is_the_solvers() -> None:
    weight, x = problem()
    evidence = evidence_of(weight, x)
    for solver in (WEIGHTS, BIAS, BOTH):
        assert torch.equal(
            solver(weight, Layerwise(), 0.4, evidence).mask, PLAIN(weight, Layerwise(), 0.4, evidence).mask
        )


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(SparsityError, match="nothing to repair"):
        Repaired(PLAIN, weights=False)
    with pytest.raises(SparsityError, match="refits its weights itself"):
        Repaired(Corrected(SparseGPT()))
