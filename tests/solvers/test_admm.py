"""ADMM's choice of the mask, beside magnitude with the same refit and beside SparseGPT."""

import numpy as np
import pytest

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.evidence import Need
from rarefy.core.protocols import Solver
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.admm import ADMM
from rarefy.solvers.reconstruction import Reconstruction
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.oracles import least_squares, output_error
from solvers.problems import correlated


def error_of(solver: Solver, pattern, density: float, seed: int) -> float:
    weight, x = correlated(seed=seed)
    solution = solver(weight, pattern, density, evidence_of(weight, x))
    return output_error(x.double().numpy(), weight.double().numpy(), solution.weight.double().numpy())


def better_mask_than_magnitude_with_the_same_refit(solver: Solver) -> None:
    for seed in range(3):
        refitted = error_of(Reconstruction(Magnitude(), damping=0.001), Layerwise(), 0.4, seed)
        assert error_of(solver, Layerwise(), 0.4, seed) < 0.8 * refitted


def better_than_one_sweep(solver: Solver) -> None:
    for pattern, density in ((Layerwise(), 0.4), (NM(2, 4), 0.5)):
        ours, sweep = (
            np.mean([error_of(s, pattern, density, seed) for seed in range(3)]) for s in (solver, SparseGPT())
        )
        assert ours < 0.9 * sweep


@pytest.mark.parametrize("check", [better_mask_than_magnitude_with_the_same_refit, better_than_one_sweep])
def test_admm(check) -> None:
    assert_beats_impostor(check, ADMM(), Scored(Magnitude()))


def test_kept_weights_are_the_least_squares_ones() -> None:
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    solver = ADMM()
    solution = solver(weight, Layerwise(), 0.4, evidence)
    ridge = solver.refit_damping * evidence[Need.INPUT_GRAM].diagonal().mean().item()
    wanted = least_squares(weight.double().numpy(), x.double().numpy(), solution.mask.numpy(), ridge)
    best = output_error(x.double().numpy(), weight.double().numpy(), wanted)
    found = output_error(x.double().numpy(), weight.double().numpy(), solution.weight.double().numpy())
    assert found == pytest.approx(best, rel=0.02)
