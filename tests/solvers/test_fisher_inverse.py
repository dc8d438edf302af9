"""The inverse Fisher of WoodFisher and M-FAC beside the explicit one, and their pruning beside the formula."""

import numpy as np
import pytest
import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.joint import JointSolver
from rarefy.solvers.fisher_inverse import BlockInverse, row_inverse, woodbury
from rarefy.solvers.fisher_rows import FisherRows
from rarefy.solvers.mfac import MFAC, averaged
from rarefy.solvers.woodfisher import WoodFisher
from solvers.fisher_problems import fisher, given, problem
from solvers.test_chita import Magnitude

DAMPING = 1e-3


def one_at_a_time(grads: np.ndarray, damping: float) -> np.ndarray:
    """The recursion as printed: F^-1 <- F^-1 - F^-1 g g^T F^-1 / (n + g^T F^-1 g)."""
    inverse = np.eye(len(grads)) / damping
    for g in grads.T:
        image = inverse @ g
        inverse -= np.outer(image, image) / (grads.shape[1] + g @ image)
    return inverse


@pytest.mark.parametrize(("p", "n"), [(12, 5), (12, 200), (1, 3)])
def test_the_recursion_gives_the_inverse(p: int, n: int) -> None:
    _, grads = problem(p, n, 0)
    found = woodbury(grads[None], DAMPING, n)[0].numpy()
    np.testing.assert_allclose(found, np.linalg.inv(fisher(grads, DAMPING)), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found, one_at_a_time(grads.numpy(), DAMPING), rtol=1e-8, atol=1e-8)


def block_diagonal(full: np.ndarray, ends: list[int]) -> np.ndarray:
    kept = np.zeros_like(full)
    for start, end in zip([0, *ends], ends, strict=False):
        kept[start:end, start:end] = full[start:end, start:end]
    return kept


@pytest.mark.parametrize("block", [4, 7, 100])
def test_blocks_stay_inside_a_site_and_the_rest_of_a_site_is_a_block_too(block: int) -> None:
    weight, grads = problem(24, 30, 1)
    rows = FisherRows((grads[:10], grads[10:]))
    ends = sorted({*range(block, 10, block), 10, *range(10 + block, 24, block), 24})
    explicit = np.linalg.inv(block_diagonal(fisher(grads, DAMPING), ends))
    inverse = BlockInverse(rows, DAMPING, block)
    np.testing.assert_allclose(inverse.diagonal().numpy(), np.diag(explicit), rtol=1e-8)
    np.testing.assert_allclose(inverse.times(weight).numpy(), explicit @ weight.numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("p", "n"), [(30, 8), (30, 90)])
def test_products_without_the_matrix_equal_the_explicit_ones(p: int, n: int) -> None:
    weight, grads = problem(p, n, 2)
    inverse = row_inverse(FisherRows((grads[:13], grads[13:])), DAMPING)
    explicit = np.linalg.inv(fisher(grads, DAMPING))
    np.testing.assert_allclose(inverse.diagonal().numpy(), np.diag(explicit), rtol=1e-6)
    np.testing.assert_allclose(inverse.times(weight).numpy(), explicit @ weight.numpy(), rtol=1e-6, atol=1e-6)


def removes_and_repairs_by_the_formula(solver: JointSolver) -> None:
    weight, grads = problem(18, 25, 3)
    supports, evidence = given(weight, grads, 7, sites=2)
    found = solver.together(weight, supports, evidence)
    inverse, w = np.linalg.inv(fisher(grads, DAMPING)), weight.numpy()
    removed = np.argsort(w**2 / np.diag(inverse))[:11]
    wanted = w.copy()
    for q in removed:
        wanted -= w[q] / inverse[q, q] * inverse[:, q]
    wanted[removed] = 0.0
    np.testing.assert_allclose(found.weight.numpy(), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", [WoodFisher(DAMPING, block=None), MFAC(DAMPING)])
def test_pruning(solver: JointSolver) -> None:
    assert_beats_impostor(removes_and_repairs_by_the_formula, solver, Magnitude())


def test_blocks_of_a_whole_site_equal_the_whole_matrix() -> None:
    weight, grads = problem(16, 25, 4)
    supports, evidence = given(weight, grads, 5)
    whole = WoodFisher(DAMPING, block=None).together(weight, supports, evidence)
    block = WoodFisher(DAMPING, block=16).together(weight, supports, evidence)
    assert torch.equal(whole.mask, block.mask)
    torch.testing.assert_close(whole.weight, block.weight, rtol=1e-6, atol=1e-8)


def test_means_of_gradients() -> None:
    rows = averaged(FisherRows((torch.arange(10.0).reshape(2, 5),)), 2)
    assert rows.parts[0].tolist() == [[0.5, 2.5, 4.0], [5.5, 7.5, 9.0]]


def test_dead_weights_do_not_teach() -> None:
    weight, grads = problem(12, 30, 5)
    weight[:4] = 0.0
    supports, evidence = given(weight, grads, 5)
    found = MFAC(DAMPING).together(weight, supports, evidence)
    supports, evidence = given(weight[4:], grads[4:], 5)
    wanted = MFAC(DAMPING).together(weight[4:], supports, evidence)
    assert not found.mask[:4].any()
    torch.testing.assert_close(found.weight[4:], wanted.weight)


@pytest.mark.parametrize(
    "make", [lambda: WoodFisher(damping=0.0), lambda: WoodFisher(block=0), lambda: MFAC(average=0)]
)
def test_impossible_fields(make) -> None:
    with pytest.raises(SparsityError, match="needs damping > 0"):
        make()
