"""AWP: the objective never rises, exact support recovery where Wanda fails, never worse than its start."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Need
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Solver
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Rowwise
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.awp import ProjectedGradient, largest_eigenvalue
from rarefy.solvers.quantized import Quantized
from rarefy.solvers.scored import Scored
from solvers.oracles import output_error
from solvers.problems import correlated


def error_of(solver: Solver, weight: Tensor, x: Tensor, pattern, density: float) -> float:
    solution = solver(weight, pattern, density, evidence_of(weight, x))
    return output_error(x.double().numpy(), weight.double().numpy(), solution.weight.double().numpy())


def planted(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """W = a 4-sparse W0 plus a part that the 40 inputs (fewer than the 60 columns) cannot see."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 60, generator=generator)
    sparse = torch.zeros(8, 60)
    for row in sparse:
        row[torch.randperm(60, generator=generator)[:4]] = torch.randn(4, generator=generator).sign() * 2
    unseen = torch.linalg.svd(x).Vh[40:]
    return x, sparse, sparse + 3.0 * torch.randn(8, 20, generator=generator) @ unseen


def recovers_the_planted_support(solver: Solver) -> None:
    for seed in range(3):
        x, sparse, weight = planted(seed)
        mask = solver(weight, Rowwise(), 4 / 60, evidence_of(weight, x)).mask
        assert torch.equal(mask, sparse != 0)


def test_awp() -> None:
    real = ProjectedGradient(iterations=2000, tolerance=1e-7)
    assert_beats_impostor(recovers_the_planted_support, real, Scored(InputNorm()))


def test_the_objective_never_rises() -> None:
    weight, x = correlated()
    for adaptive in (False, True):
        solvers = [ProjectedGradient(iterations=k, tolerance=0.0, adaptive=adaptive) for k in range(1, 30)]
        errors = [error_of(solver, weight, x, Rowwise(), 0.4) for solver in solvers]
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(errors))
        assert errors[-1] < 0.8 * errors[0]


def test_white_inputs_give_magnitude_pruning() -> None:
    weight = torch.randn(6, 16)
    x = torch.linalg.qr(torch.randn(64, 16)).Q
    found = ProjectedGradient(start=Magnitude(), iterations=1)(weight, Rowwise(), 0.5, evidence_of(weight, x))
    wanted = Scored(Magnitude())(weight, Rowwise(), 0.5, evidence_of(weight, x))
    assert torch.equal(found.mask, wanted.mask)
    torch.testing.assert_close(found.weight, wanted.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", [Rowwise(), NM(2, 4)])
def test_never_worse_than_wanda(pattern) -> None:
    for seed in range(4):
        weight, x = correlated(seed=seed)
        assert error_of(ProjectedGradient(), weight, x, pattern, 0.5) <= error_of(
            Scored(InputNorm()), weight, x, pattern, 0.5
        )


def test_near_brute_force_on_short_rows() -> None:
    """All 210 supports of 4 in 10, each refitted by least squares: within a tenth of the best over ten rows."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(60, 10)) @ (np.eye(10) + 0.1 * generator.normal(size=(10, 10)))
    weight = generator.normal(size=(10, 10))
    best = 0.0
    for row in weight:
        errors = []
        for support in itertools.combinations(range(10), 4):
            chosen = x[:, support]
            solved = np.linalg.lstsq(chosen, x @ row, rcond=None)[0]
            errors.append(float(np.sum((x @ row - chosen @ solved) ** 2)))
        best += min(errors)
    w, inputs = torch.tensor(weight), torch.tensor(x)
    found = ProjectedGradient(iterations=1000, tolerance=1e-6)(w, Rowwise(), 0.4, evidence_of(w, inputs))
    assert float(((w - found.weight) @ inputs.t()).square().sum()) <= 1.1 * best


def test_largest_eigenvalue_is_met_from_above() -> None:
    for seed in range(5):
        weight, x = correlated(seed=seed)
        gram = evidence_of(weight, x)[Need.INPUT_GRAM]
        true = float(torch.linalg.eigvalsh(gram.double())[-1])
        assert true * (1 - 1e-3) <= largest_eigenvalue(gram) <= true * 1.03
    assert largest_eigenvalue(torch.zeros(4, 4)) == 0.0
    assert largest_eigenvalue(torch.eye(4)) == pytest.approx(1.0, abs=1e-9)


def test_impossible_fields() -> None:
    with pytest.raises(SparsityError, match="iterations"):
        ProjectedGradient(iterations=0)


def test_rounding_by_projection_beats_rounding_what_was_found() -> None:
    """Joint: never worse than its own start, which is the pruned iterate rounded to nearest, and on a grid."""
    spec, plain = QuantizeSpec(4, 16), QuantizeSpec(4, 16, "nearest")
    for seed in range(3):
        weight, x = correlated(out=32, n=64, tokens=400, seed=seed)
        joint = error_of(ProjectedGradient(quantize=spec), weight, x, Rowwise(), 0.5)
        assert joint < 0.95 * error_of(Quantized(ProjectedGradient(), plain), weight, x, Rowwise(), 0.5)
        found = ProjectedGradient(quantize=spec)(weight, Rowwise(), 0.5, evidence_of(weight, x))
        assert int(found.mask.sum()) == Rowwise().count(32, 64, 0.5) and found.grid is not None
        assert torch.equal(found.grid.round(found.weight).dequantize(), found.weight)
