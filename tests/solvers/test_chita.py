"""CHITA against brute force, planted solutions and its own promises."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.joint import JointSolver
from rarefy.solvers.cbs import CBS
from rarefy.solvers.chita import CHITA
from rarefy.solvers.mfac import MFAC
from rarefy.solvers.woodfisher import WoodFisher
from solvers.fisher_problems import best_on, brute_force, given, objective, problem

DAMPING = 0.01


class Magnitude:
    """The impostor: the largest stay as they are."""

    def together(self, weight, supports, evidence):
        mask = supports.nearest(weight)
        return type("Found", (), {"weight": weight * mask, "mask": mask})()


def solved(solver: JointSolver, weight: Tensor, grads: Tensor, kept: int) -> np.ndarray:
    supports, evidence = given(weight, grads, kept)
    found = solver.together(weight, supports, evidence)
    assert int(found.mask.sum()) == kept and not found.weight[~found.mask].any()
    return found.weight.numpy()


def magnitude_refitted(weight: Tensor, grads: Tensor, kept: int, first: float) -> float:
    support = np.zeros(len(weight), dtype=bool)
    support[np.argsort(-weight.abs().numpy(), kind="stable")[:kept]] = True
    found = best_on(support, weight.numpy(), grads.numpy(), DAMPING, first)
    return objective(found, weight.numpy(), grads.numpy(), DAMPING, first)


def within_five_per_cent_of_brute_force(solver: JointSolver) -> None:
    """16 weights, 6 kept: in 8 of 10 problems, and never above magnitude with a least-squares refit."""
    first, near = getattr(solver, "first", 0.0), 0
    for seed in range(10):
        weight, grads = problem(16, 40, seed)
        value = objective(solved(solver, weight, grads, 6), weight.numpy(), grads.numpy(), DAMPING, first)
        assert value <= magnitude_refitted(weight, grads, 6, first) * (1 + 1e-9)
        near += value <= 1.05 * brute_force(weight.numpy(), grads.numpy(), 6, DAMPING, first)
    assert near >= 8


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_brute_force(first: float) -> None:
    assert_beats_impostor(within_five_per_cent_of_brute_force, CHITA(damping=DAMPING, first=first), Magnitude())


def planted(solver: JointSolver) -> None:
    """y = A w for a w of 10 out of 60, small entries among them, hidden under weights that do nothing together."""
    generator = torch.Generator().manual_seed(3)
    grads = torch.randn(60, 200, generator=generator, dtype=torch.float64)
    sparse = torch.zeros(60, dtype=torch.float64)
    sparse[torch.randperm(60, generator=generator)[:10]] = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)
    _, vectors = torch.linalg.eigh(grads @ grads.T)
    nothing = vectors[:, :20] @ torch.randn(20, generator=generator, dtype=torch.float64)
    grads = grads - vectors[:, :20] @ (vectors[:, :20].T @ grads)  # 20 directions in which the loss is flat
    found = torch.from_numpy(solved(solver, sparse + 0.3 * nothing, grads, 10))
    assert torch.equal(found != 0, sparse != 0)
    torch.testing.assert_close(found, sparse, rtol=0.0, atol=0.01)


def test_a_planted_solution_is_found() -> None:
    assert_beats_impostor(planted, CHITA(damping=1e-6, first=0.0, iterations=200), Magnitude())


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_all_weights_kept_gives_the_dense_optimum(first: float) -> None:
    weight, grads = problem(20, 30, 1)
    found = solved(CHITA(damping=DAMPING, first=first), weight, grads, 20)
    wanted = best_on(np.ones(20, dtype=bool), weight.numpy(), grads.numpy(), DAMPING, first)
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)
    assert np.allclose(found, weight.numpy()) == (first == 0.0)


class LargestTensor(TorchDispatchMode):
    """The largest number of entries that any operation gave."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
        self.largest = max([self.largest, *(t.untyped_storage().nbytes() // t.element_size() for t in tensors)])
        return out


@pytest.mark.parametrize("solver", [CHITA(), CBS(draws=2, rounds=2), MFAC(), WoodFisher(block=None), WoodFisher()])
def test_no_matrix_of_weights_by_weights(solver: JointSolver) -> None:
    """20,000 weights, 20 samples: nothing near 20,000^2 entries is ever made (a block of WoodFisher's is 256^2)."""
    weight, grads = torch.randn(20_000), torch.randn(20_000, 20)
    supports, evidence = given(weight, grads, 2_000)
    with LargestTensor() as seen:
        found = solver.together(weight, supports, evidence)
    assert int(found.mask.sum()) == 2_000
    assert 20 * 20_000 <= seen.largest < 20_000**2 / 10


def test_the_largest_tensor_is_seen() -> None:
    with LargestTensor() as seen:
        torch.ones(30) @ torch.ones(30, 40)
    assert seen.largest == 1200


def test_sites_share_one_budget() -> None:
    """All that matters lies in the second of two sites: there the budget goes."""
    weight, grads = problem(20, 50, 2)
    grads[:10] *= 1e-6
    supports, evidence = given(weight.sign(), grads, 8, sites=2)
    mask = CHITA(damping=1e-8, first=0.0).together(weight.sign(), supports, evidence).mask
    assert int(mask[:10].sum()) == 0 and int(mask[10:].sum()) == 8


@pytest.mark.parametrize("wrong", [{"damping": 0.0}, {"first": -1.0}, {"iterations": -1}])
def test_impossible_fields(wrong: dict[str, float]) -> None:
    with pytest.raises(SparsityError, match="needs damping > 0"):
        CHITA(**wrong)


def fisher_in_blocks(grads: Tensor, block: int) -> Tensor:
    """Gradients (p, n * blocks) whose Fisher is that of (p, n) cut down to diagonal blocks of `block` weights."""
    parts = grads.split(block)
    apart = torch.zeros(len(grads), grads.shape[1] * len(parts), dtype=grads.dtype)
    for i, part in enumerate(parts):
        apart[i * block : i * block + len(part), i * grads.shape[1] : (i + 1) * grads.shape[1]] = part
    return apart


@pytest.mark.parametrize(("block", "first"), [(5, 0.0), (5, 1.0), (60, 0.3), (100, 0.3)])
def test_blocks_give_what_the_block_diagonal_fisher_gives(block: int, first: float) -> None:
    """Wide and narrow blocks (more and fewer weights than samples), the last one shorter, or one that holds all."""
    weight, grads = problem(64, 20, 4)
    apart = fisher_in_blocks(grads, block)
    shared = {"first": first, "exchanges": 0, "swaps": 0, "tolerance": 0.0}
    found = solved(CHITA(damping=DAMPING, block=block, **shared), weight, grads, 16)
    wanted = solved(CHITA(damping=DAMPING * grads.shape[1] / apart.shape[1], **shared), weight, apart, 16)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def far_from_one_block(solver: JointSolver) -> None:
    """Weights 0 and 2 have the same gradients, in different blocks of 2: only the whole lets one carry the other."""
    row = torch.randn(1, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grads = torch.cat([row, 0 * row, row, 0 * row])
    found = solved(solver, torch.tensor([2.0, 3.0, 1.0, 0.0], dtype=torch.float64), grads, 2)
    np.testing.assert_allclose(found[0], 2.0, atol=1e-9)


def test_weights_of_two_blocks_do_not_make_up_for_each_other() -> None:
    plain = CHITA(damping=1e-6, first=0.0, iterations=0, exchanges=0, swaps=0, block=2)
    assert_beats_impostor(far_from_one_block, plain, CHITA(1e-6, 0.0, 0, 0, 0))


def test_blocks_with_exchanges_are_refused() -> None:
    with pytest.raises(SparsityError, match="exchanges=0"):
        CHITA(block=10)
