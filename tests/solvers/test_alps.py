import numpy as np
import pytest
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Need
from rarefy.core.protocols import Solver
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.alps import ALPS
from rarefy.solvers.reconstruction import Reconstruction
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.oracles import least_squares, output_error
from solvers.problems import correlated


def error_of(solver: Solver, pattern, density: float, seed: int) -> float:
    weight, x = correlated(seed=seed)
    solution = solver(weight, pattern, density, evidence_of(weight, x))
    return output_error(x.double().numpy(), weight.double().numpy(), solution.weight.double().numpy())


def better_than_one_sweep(solver: Solver) -> None:
    for pattern, density in ((Layerwise(), 0.4), (NM(2, 4), 0.5)):
        ours, sweep = (
            np.mean([error_of(s, pattern, density, seed) for seed in range(3)]) for s in (solver, SparseGPT())
        )
        assert ours < 0.9 * sweep


def better_mask_than_magnitude_with_the_same_refit(solver: Solver) -> None:
    for seed in range(3):
        refitted = error_of(Reconstruction(Magnitude(), damping=0.01), Layerwise(), 0.4, seed)
        assert error_of(solver, Layerwise(), 0.4, seed) < 0.8 * refitted


@pytest.mark.parametrize("check", [better_than_one_sweep, better_mask_than_magnitude_with_the_same_refit])
def test_alps(check) -> None:
    assert_beats_impostor(check, ALPS(), Scored(Magnitude()))


def test_conjugate_gradients_reach_the_least_squares_weights() -> None:
    """The ridge is `damping` times the mean of the diagonal, as the paper adds it."""
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    solution = ALPS(refits=200)(weight, Layerwise(), 0.4, evidence)
    ridge = 0.01 * float(evidence[Need.INPUT_GRAM].diagonal().mean())
    wanted = least_squares(weight.double().numpy(), x.double().numpy(), solution.mask.numpy(), ridge)
    np.testing.assert_allclose(solution.weight.numpy(), wanted, rtol=2e-2, atol=2e-3)


def test_the_penalty_rises_until_the_support_rests() -> None:
    weight, x = correlated()
    result = ALPS()(weight, Layerwise(), 0.4, evidence_of(weight, x)).result
    assert result["iterations"] < 300
    assert result["mask_changed"] > 0.01
    assert result["refit_iterations"] <= 10


def test_white_inputs_end_at_magnitude() -> None:
    weight = torch.randn(6, 16)
    x = torch.linalg.qr(torch.randn(64, 16)).Q
    found = ALPS()(weight, Layerwise(), 0.5, evidence_of(weight, x))
    wanted = Scored(Magnitude())(weight, Layerwise(), 0.5, evidence_of(weight, x))
    assert torch.equal(found.mask, wanted.mask)


def test_impossible_fields() -> None:
    with pytest.raises(SparsityError, match="rho"):
        ALPS(rho=0.0)
