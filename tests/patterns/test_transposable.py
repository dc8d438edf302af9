"""Transposable N:M: exact on small tiles, near the assignment's optimum on larger ones, sums always right."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, ShapeError, SparsityError
from rarefy.core.protocols import Pattern
from rarefy.patterns.nm import NM
from rarefy.patterns.parse import parse_pattern
from rarefy.patterns.transposable import Transposable, greedy, improve, transposable_ways
from rarefy.pruning import prune


def both_ways_have_two_of_four(pattern: Pattern) -> None:
    mask = pattern.select(torch.randn(16, 32), 0.5)
    for side in (mask, mask.t()):
        assert (side.reshape(-1, 4).sum(1) == 2).all()


def test_transposable() -> None:
    assert_beats_impostor(both_ways_have_two_of_four, Transposable(2, 4), NM(2, 4))


def test_there_are_ninety_masks_of_two_in_four() -> None:
    assert len(transposable_ways(2, 4)) == 90
    assert len(transposable_ways(1, 4)) == 24


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (2, 3)])
def test_each_tile_is_the_best_of_all(n: int, m: int) -> None:
    scores = torch.rand(10 * m, 6 * m)
    mask = Transposable(n, m).select(scores, n / m)
    ways = transposable_ways(n, m).float().flatten(1)
    for i, j in itertools.product(range(10), range(6)):
        tile, kept = (t[i * m : i * m + m, j * m : j * m + m] for t in (scores, mask))
        assert float(tile[kept].sum()) == pytest.approx(float((ways @ tile.flatten()).max()))


def test_tiles_beyond_four_are_searched_and_not_enumerated() -> None:
    scores = torch.rand(200, 5, generator=torch.Generator().manual_seed(5))
    tiles = scores.double().view(40, 5, 5)
    assert torch.equal(Transposable(2, 5).select(scores, 0.4).view(40, 5, 5), improve(tiles, greedy(tiles, 2)))


def optimum(tile: Tensor, n: int) -> float:
    """The assignment problem as a linear programme, whose vertices are masks."""
    optimize = pytest.importorskip("scipy.optimize", reason="the exact optimum is taken from scipy")
    m = len(tile)
    rows = np.kron(np.eye(m), np.ones(m))
    columns = np.kron(np.ones(m), np.eye(m))
    solved = optimize.linprog(
        -tile.double().numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.full(2 * m, n), bounds=(0, 1)
    )
    return float(-solved.fun)


@pytest.mark.parametrize(("n", "m"), [(4, 8), (2, 8), (8, 16)])
def test_larger_tiles_come_within_two_percent_of_the_optimum(n: int, m: int) -> None:
    scores = torch.randn(12 * m, m).abs()
    mask = Transposable(n, m).select(scores, n / m)
    tiles, masks = scores.view(12, m, m), mask.view(12, m, m)
    ours = sum(float(t[k].sum()) for t, k in zip(tiles, masks, strict=True))
    best = sum(optimum(t, n) for t in tiles)
    assert 0.98 * best <= ours <= best * (1 + 1e-6)


def test_swaps_never_keep_less_and_the_greedy_part_fills_every_row() -> None:
    tiles = torch.randn(50, 8, 8).double()
    first = greedy(tiles, 4)
    assert (first.sum(1) == 4).all()
    assert (first.sum(2) == 4).all()
    second = improve(tiles, first.clone())
    kept = [(tiles * k).sum((1, 2)) for k in (first, second)]
    assert (kept[1] >= kept[0]).all()
    assert (kept[1] > kept[0]).any()


def test_by_name_on_a_model() -> None:
    model = nn.Sequential(nn.Linear(16, 8))
    report = prune(model, "sparsegpt", pattern="t2:4", data=[torch.randn(64, 16)])
    assert report.pattern == "t2:4"
    assert parse_pattern("t4:8") == Transposable(4, 8)
    assert Transposable(2, 4).allows(model[0].weight != 0)


def test_what_does_not_divide_or_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="rows"):
        Transposable(2, 4).select(torch.rand(6, 8), 0.5)
    with pytest.raises(SparsityError, match="of the weights, but density"):
        Transposable(2, 4).select(torch.rand(8, 8), 0.25)
    with pytest.raises(SparsityError, match="0 < n < m"):
        Transposable(4, 4)


def test_open_places_are_mended_by_the_best_exchange() -> None:
    """The last row and the last column come short where their own entry is taken already."""
    tile = torch.tensor([[[9.0, 8.0, 0.0], [8.0, 7.0, 0.0], [5.0, 6.0, 1.0]]]).double()
    kept = greedy(tile, 2)
    assert (kept.sum(1) == 2).all() and (kept.sum(2) == 2).all()
    best = max(float(tile[0][way].sum()) for way in transposable_ways(2, 3))
    assert float(tile[0][improve(tile, kept)[0]].sum()) == best


def greedy_one_by_one(tile: Tensor, n: int) -> Tensor:
    """Largest first, ties to the lower index, then the best exchange for the emptiest row and column."""
    m, kept = len(tile), torch.zeros(tile.shape, dtype=torch.bool)
    for at in sorted(range(m * m), key=lambda at: -float(tile.view(-1)[at])):
        i, j = divmod(at, m)
        kept[i, j] = bool(kept[i].sum() < n and kept[:, j].sum() < n)
    while (kept.sum(1) < n).any():
        i, j = int(kept.sum(1).argmin()), int(kept.sum(0).argmin())
        places = [(r, c) for r, c in kept.nonzero().tolist() if not kept[i, c] and not kept[r, j]]
        r, c = max(places, key=lambda at: float(tile[i, at[1]] + tile[at[0], j] - tile[at]))
        kept[r, c], kept[i, c], kept[r, j] = False, True, True
    return kept


@pytest.mark.parametrize(("n", "m"), [(1, 5), (2, 5), (3, 6), (4, 8)])
def test_all_tiles_at_once_are_chosen_as_one_by_one(n: int, m: int) -> None:
    tiles = torch.randn(30, m, m, generator=torch.Generator().manual_seed(m)).double()
    tiles[:5] = tiles[:5].round()  # ties
    tiles[5] = 0.0
    want = torch.stack([greedy_one_by_one(tile, n) for tile in tiles])
    assert torch.equal(greedy(tiles, n), want)
    assert torch.equal(improve(tiles, want.clone())[5], want[5])  # nothing is gained: nothing moves


@pytest.mark.parametrize(("n", "m"), [(1, 5), (2, 5), (3, 6)])
def test_no_exchange_of_two_pairs_is_left_that_keeps_more(n: int, m: int) -> None:
    tiles = torch.rand(40, m, m, generator=torch.Generator().manual_seed(n)).double()
    kept = improve(tiles, greedy(tiles, n))
    assert (kept.sum(1) == n).all() and (kept.sum(2) == n).all()
    for tile, mask in zip(tiles, kept, strict=True):
        for (a, c), (b, d) in itertools.product(mask.nonzero().tolist(), repeat=2):
            if not mask[a, d] and not mask[b, c]:
                assert tile[a, d] + tile[b, c] <= tile[a, c] + tile[b, d] + 1e-9


def test_tiles_lie_where_their_scores_do() -> None:
    scores = torch.zeros(4, 6)
    for row, column in ((0, 1), (1, 0), (0, 2), (1, 3), (0, 5), (1, 4), (2, 0), (3, 1), (2, 3), (3, 2), (2, 4), (3, 5)):
        scores[row, column] = 1.0
    assert torch.equal(Transposable(1, 2).select(scores, 0.5), scores.bool())
    mask = scores.bool()
    assert Transposable(1, 2).allows(mask)
    mask[0, 0] = True
    assert not Transposable(1, 2).allows(mask)  # two in the first row and column of a tile
    fewer = torch.zeros(4, 6, dtype=torch.bool)
    fewer[0, 0] = True
    assert Transposable(1, 2).allows(fewer)
    fewer[1, 0] = True  # two in a column, one in each row
    assert not Transposable(1, 2).allows(fewer)
    fewer[1, 0], fewer[0, 1] = False, True  # two in a row, one in each column
    assert not Transposable(1, 2).allows(fewer)


def test_nan_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="t1:2: the scores hold NaN"):
        Transposable(1, 2).select(torch.full((2, 2), torch.nan), 0.5)


@pytest.mark.parametrize("m", [4, 8])
def test_a_matrix_without_rows(m: int) -> None:
    assert Transposable(2, m).select(torch.rand(0, 2 * m), 2 / m).shape == (0, 2 * m)
