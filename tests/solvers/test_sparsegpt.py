"""SparseGPT against exact elimination in its own order, and beside magnitude, which has to fail each check."""

import numpy as np
import pytest
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solver
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.oracles import damped, obs_left_to_right, output_error
from solvers.problems import correlated

MAGNITUDE = Scored(Magnitude())


def error_of(solver: Solver, pattern: Pattern, density: float) -> float:
    weight, x = correlated()
    solution = solver(weight, pattern, density, evidence_of(weight, x))
    return output_error(x.double().numpy(), weight.double().numpy(), solution.weight.double().numpy())


def exact_elimination(solver: Solver) -> None:
    weight, x = correlated(out=6, n=16)
    evidence = evidence_of(weight, x)
    hessian = damped(evidence[Need.INPUT_GRAM].double().numpy(), 0.01)
    for density in (0.25, 0.5, 0.8):
        wanted, keep = obs_left_to_right(weight.double().numpy(), hessian, Layerwise().count(6, 16, density))
        solution = solver(weight, Layerwise(), density, evidence)
        assert np.array_equal(solution.mask.numpy(), keep)
        np.testing.assert_allclose(solution.weight.numpy(), wanted, rtol=2e-3, atol=2e-4)


def half_the_error_of_magnitude(solver: Solver) -> None:
    assert error_of(solver, Layerwise(), 0.5) < 0.5 * error_of(MAGNITUDE, Layerwise(), 0.5)


def half_the_error_at_two_of_four(solver: Solver) -> None:
    assert error_of(solver, NM(2, 4), 0.5) < 0.5 * error_of(MAGNITUDE, NM(2, 4), 0.5)


@pytest.mark.parametrize("check", [exact_elimination, half_the_error_of_magnitude, half_the_error_at_two_of_four])
def test_sparsegpt(check) -> None:
    assert_beats_impostor(check, SparseGPT(), MAGNITUDE)


def test_without_correlation_there_is_nothing_to_repair() -> None:
    """Orthogonal inputs of equal size: the choice is magnitude's and the kept weights do not move."""
    weight = torch.randn(8, 16)
    evidence = Evidence("fc", {Need.INPUT_GRAM: 5.0 * torch.eye(16)}, 100)
    solution = SparseGPT()(weight, Layerwise(), 0.5, evidence)
    plain = MAGNITUDE(weight, Layerwise(), 0.5, evidence)
    assert torch.equal(solution.mask, plain.mask)
    torch.testing.assert_close(solution.weight, plain.weight)


@pytest.mark.parametrize("columns", [1, 3, 8, 128])
def test_any_block_width_keeps_the_count_and_repairs(columns: int) -> None:
    weight, x = correlated()
    solution = SparseGPT(columns)(weight, Layerwise(), 0.37, evidence_of(weight, x))
    assert int(solution.mask.sum()) == Layerwise().count(24, 32, 0.37)
    assert error_of(SparseGPT(columns), Layerwise(), 0.5) < error_of(MAGNITUDE, Layerwise(), 0.5)


def test_blocks_wait_for_the_updates_of_the_blocks_before() -> None:
    """Narrow blocks choose among weights as already updated, so the masks differ from those of one wide block."""
    weight, x = correlated()
    evidence = evidence_of(weight, x)
    wide, narrow = (SparseGPT(c)(weight, Rowwise(), 0.5, evidence) for c in (128, 8))
    assert not torch.equal(wide.mask, narrow.mask)


@pytest.mark.parametrize("pattern", [Layerwise(), Rowwise()])
def test_zeros_that_lie_unevenly_keep_the_count_exact(pattern: Pattern) -> None:
    """The first half of the columns is empty: all that may stay lies in the second, in blocks of eight columns."""
    weight, x = correlated()
    weight[:, :16] = 0.0
    solution = SparseGPT(columns=8)(weight, pattern, 0.25, evidence_of(weight, x))
    assert int(solution.mask.sum()) == pattern.count(24, 32, 0.25)
    assert not solution.mask[:, :16].any()
    looser = SparseGPT(columns=8)(weight, pattern, 0.75, evidence_of(weight, x))
    assert torch.equal(looser.mask, weight != 0)


def test_damping_is_reported_and_raised_until_it_works() -> None:
    weight, x = correlated()
    easy = SparseGPT(damping=0.01)(weight, Layerwise(), 0.5, evidence_of(weight, x))
    assert easy.result["damping"] == 0.01
    gram = x.t() @ x
    values, vectors = torch.linalg.eigh(gram)
    values[:4] = -0.05 * gram.diagonal().mean()  # rounding gone bad: clearly not positive definite
    broken = Evidence("fc", {Need.INPUT_GRAM: vectors @ torch.diag(values) @ vectors.t()}, 200)
    hard = SparseGPT(damping=0.01)(weight, Layerwise(), 0.5, broken)
    assert hard.result["damping"] == pytest.approx(0.1)
    assert hard.weight.isfinite().all()


def test_fewer_tokens_than_inputs_still_works_and_says_how() -> None:
    weight, x = correlated(tokens=5)
    solution = SparseGPT(damping=0.0)(weight, Layerwise(), 0.5, evidence_of(weight, x))
    assert solution.weight.isfinite().all()
    assert 0 < solution.result["damping"] <= 1.0


def test_what_cannot_be_inverted_is_an_error_and_not_another_method() -> None:
    weight, _ = correlated()
    indefinite = Evidence("blocks.1.fc", {Need.INPUT_GRAM: torch.eye(32) - 0.2 * torch.ones(32, 32)}, 100)
    with pytest.raises(SolverError, match=r"blocks\.1\.fc.*not positive definite.*more calibration data"):
        SparseGPT()(weight, Layerwise(), 0.5, indefinite)


def test_inputs_that_never_fire_go_first() -> None:
    weight, x = correlated()
    x[:, 10:20] = 0.0
    weight[:, 10:20] *= 100.0
    solution = SparseGPT()(weight, Layerwise(), 22 / 32, evidence_of(weight, x))
    assert not solution.mask[:, 10:20].any()
    assert solution.mask[:, :10].all()


@pytest.mark.parametrize(("columns", "damping"), [(0, 0.01), (128, -1.0)])
def test_impossible_fields(columns: int, damping: float) -> None:
    with pytest.raises(SparsityError, match="columns >= 1"):
        SparseGPT(columns, damping)
