"""The exact surgeon on rows beside slow loops that invert everything anew, and beside magnitude."""

import numpy as np
import pytest
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SolverError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solver
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.grouped_nm import GroupedNM
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.obs import OBS
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.oracles import Matrix, damped, obs_left_to_right, output_error
from solvers.problems import correlated

MAGNITUDE = Scored(Magnitude())


def greedy_row(w: Matrix, hessian: Matrix, remove: int, width: int = 1, group: tuple[int, int] | None = None):
    """(weights, removed in order, losses): tiles of `width` by least 1/2 w_P ([H^-1]_PP)^-1 w_P among what is left.

    w: (rows of the band, n). group: (m, n), n of every m tiles stay.
    """
    w, left = w.copy(), list(range(w.shape[1] // width))
    order, losses = [], []
    for _ in range(remove):
        columns = [c for t in left for c in range(t * width, (t + 1) * width)]
        inverse = np.linalg.inv(hessian[np.ix_(columns, columns)])
        costs = {}
        for i, t in enumerate(left):
            if group is not None and sum(1 for o in left if o // group[0] == t // group[0]) <= group[1]:
                continue
            p = slice(i * width, (i + 1) * width)
            part = w[:, t * width : (t + 1) * width]
            costs[t] = 0.5 * np.trace(part @ np.linalg.inv(inverse[p, p]) @ part.T)
        tile = min(costs, key=costs.__getitem__)
        i = left.index(tile)
        p = slice(i * width, (i + 1) * width)
        w[:, columns] -= w[:, columns][:, p] @ np.linalg.inv(inverse[p, p]) @ inverse[p, :]
        w[:, tile * width : (tile + 1) * width] = 0.0
        left.remove(tile)
        order.append(tile)
        losses.append(costs[tile])
    return w, order, losses


def layer(out: int = 4, n: int = 12) -> tuple[torch.Tensor, Evidence, Matrix, Matrix]:
    weight, x = correlated(out=out, n=n)
    weight, evidence = weight.double(), evidence_of(weight, x)
    return weight, evidence, weight.numpy(), damped(evidence[Need.INPUT_GRAM].double().numpy(), 0.01)


def rows_one_by_one(solver: Solver) -> None:
    weight, evidence, w, hessian = layer()
    found = solver(weight, Rowwise(), 0.5, evidence).weight.numpy()
    wanted = np.concatenate([greedy_row(row[None], hessian, 6)[0] for row in w])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def two_of_four(solver: Solver) -> None:
    weight, evidence, w, hessian = layer()
    found = solver(weight, NM(2, 4), 0.5, evidence).weight.numpy()
    wanted = np.concatenate([greedy_row(row[None], hessian, 6, group=(4, 2))[0] for row in w])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def heap(bands: list[Matrix], hessian: Matrix, remove: int, width: int) -> list[int]:
    """Removals of each band when the cheapest next removal of all bands is taken, again and again."""
    tiles = bands[0].shape[1] // width
    losses = [greedy_row(band, hessian, tiles, width)[2] for band in bands]
    taken = [0] * len(bands)
    for _ in range(remove):
        open_bands = [b for b in range(len(bands)) if taken[b] < tiles]
        taken[min(open_bands, key=lambda b: losses[b][taken[b]])] += 1
    return taken


@pytest.mark.parametrize(("pattern", "r", "c"), [(Layerwise(), 1, 1), (Block(1, 4), 1, 4), (Block(2, 2), 2, 2)])
def test_the_budget_of_a_layer_goes_where_removal_is_cheapest(pattern, r: int, c: int) -> None:
    weight, evidence, w, hessian = layer()
    bands = [w[i : i + r] for i in range(0, 4, r)]
    tiles = len(bands) * 12 // c

    def by_heap(solver: Solver) -> None:
        found = solver(weight, pattern, 0.5, evidence).weight.numpy()
        taken = heap(bands, hessian, tiles - tiles // 2, c)
        wanted = np.concatenate([greedy_row(b, hessian, t, c)[0] for b, t in zip(bands, taken, strict=True)])
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)

    assert_beats_impostor(by_heap, OBS(), MAGNITUDE)


@pytest.mark.parametrize("check", [rows_one_by_one, two_of_four])
def test_exact_elimination(check) -> None:
    assert_beats_impostor(check, OBS(), MAGNITUDE)


@pytest.mark.parametrize("pattern", [Rowwise(), NM(2, 4), Layerwise()])
def test_no_worse_than_the_sweep_from_left_to_right(pattern) -> None:
    weight, x = correlated()
    errors = {}
    for solver in (OBS(), SparseGPT(), MAGNITUDE):
        found = solver(weight, pattern, 0.5, evidence_of(weight, x)).weight
        errors[type(solver).__name__] = output_error(
            x.double().numpy(), weight.double().numpy(), found.double().numpy()
        )
    assert errors["OBS"] < errors["SparseGPT"] < errors["Scored"]


def test_sparsegpt_with_one_block_is_the_surgeon_in_its_own_order() -> None:
    weight, evidence, w, hessian = layer(out=5, n=16)
    wanted, keep = obs_left_to_right(w, hessian, Layerwise().count(5, 16, 0.4))
    found = SparseGPT(columns=16)(weight, Layerwise(), 0.4, evidence)
    assert np.array_equal(found.mask.numpy(), keep)
    np.testing.assert_allclose(found.weight.numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_rows_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, evidence, _, _ = layer()
    whole = OBS()(weight, Layerwise(), 0.4, evidence)
    monkeypatch.setattr("rarefy.solvers.obs._AT_ONCE", 150)
    assert torch.equal(OBS()(weight, Layerwise(), 0.4, evidence).weight, whole.weight)


def test_a_pattern_that_it_does_not_know_is_an_error() -> None:
    weight, evidence, _, _ = layer(n=16)
    with pytest.raises(SolverError, match=r"layer: the exact surgeon does not know.*1:4:1"):
        OBS()(weight, GroupedNM(1, 4, 1), 0.25, evidence)


def test_impossible_fields() -> None:
    with pytest.raises(SparsityError, match="damping >= 0"):
        OBS(-1.0)


@pytest.mark.parametrize(
    "pattern", [Rowwise(), Layerwise(), FanIn(), NM(2, 4), Block(1, 2), Block(2, 4)], ids=lambda pattern: str(pattern)
)
def test_inputs_that_never_fire_go_first(pattern: Pattern) -> None:
    """Whatever the damping makes of them: half of the inputs are dead, and half of the weights go."""
    weight, x = correlated(out=8, n=24)
    dead = torch.zeros(24, dtype=torch.bool)
    dead.view(-1, 4)[:, 2:] = True
    if pattern == Block(2, 4):
        dead = torch.arange(24) // 4 % 2 == 1
    x[..., dead] = 0.0
    found = OBS()(weight.double() * (1 + 1e3 * dead), pattern, 0.5, evidence_of(weight, x))
    assert torch.equal(found.mask, ~dead.expand(8, -1))
    torch.testing.assert_close(found.weight[:, ~dead], weight.double()[:, ~dead])
