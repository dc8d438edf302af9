"""The refit against least squares row by row, beside solvers that keep the same mask without it."""

import numpy as np
import pytest

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Need
from rarefy.core.protocols import Solver
from rarefy.patterns.unstructured import Rowwise
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.reconstruction import Reconstruction
from rarefy.solvers.scored import Scored
from solvers.oracles import least_squares, output_error
from solvers.problems import correlated


def equals_least_squares(solver: Solver) -> None:
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    solution = solver(weight, Rowwise(), 0.4, evidence)
    ridge = 0.01 * evidence[Need.INPUT_GRAM].diagonal().mean().item()
    wanted = least_squares(weight.double().numpy(), x.double().numpy(), solution.mask.numpy(), ridge)
    np.testing.assert_allclose(solution.weight.numpy(), wanted, rtol=1e-3, atol=1e-4)


def a_third_of_the_error_of_its_mask_alone(solver: Solver) -> None:
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    errors = [
        output_error(x.double().numpy(), weight.double().numpy(), s(weight, Rowwise(), 0.4, evidence).weight.numpy())
        for s in (solver, Scored(InputNorm()))
    ]
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize("impostor", [Scored(InputNorm()), Scored(Magnitude())])
@pytest.mark.parametrize("check", [equals_least_squares, a_third_of_the_error_of_its_mask_alone])
def test_reconstruction(check, impostor: Solver) -> None:
    assert_beats_impostor(check, Reconstruction(InputNorm(), tolerance=1e-8), impostor)


def test_the_mask_is_the_scores() -> None:
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    fitted = Reconstruction(InputNorm())(weight, Rowwise(), 0.4, evidence)
    assert (fitted.mask == Scored(InputNorm())(weight, Rowwise(), 0.4, evidence).mask).all()


def test_iterations_and_residual_are_reported() -> None:
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    short = Reconstruction(Magnitude(), iterations=1)(weight, Rowwise(), 0.4, evidence).result
    long = Reconstruction(Magnitude())(weight, Rowwise(), 0.4, evidence).result
    assert short["iterations"] == 1
    assert short["residual"] > 1e-4 >= long["residual"]


@pytest.mark.parametrize("fields", [{"damping": -1.0}, {"iterations": 0}, {"tolerance": 0.0}])
def test_impossible_fields(fields: dict[str, float]) -> None:
    with pytest.raises(SparsityError, match="needs damping >= 0"):
        Reconstruction(Magnitude(), **fields)
