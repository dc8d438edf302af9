"""The check of `sten`: every way equally often, and what that costs."""

import math
from itertools import permutations

import pytest
import torch

from rarefy.core.errors import DataError, ShapeError, SparsityError
from rarefy.patterns.grouped_nm import GroupedNM, _greedy, _improve, all_ways, finite
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise

EVERY = pytest.mark.parametrize(
    "pattern", [GroupedNM(2, 4, 1), GroupedNM(2, 4, 8), GroupedNM(1, 4, 3), GroupedNM(3, 6, 1)], ids=str
)


def scores_for(pattern, rows=6, chunks=3):
    return torch.randn(rows, chunks * pattern.granularity[1], generator=torch.Generator().manual_seed(0)).abs()


@EVERY
def test_each_way_occurs_exactly_g_times_in_each_chunk(pattern):
    mask = pattern.select(scores_for(pattern), pattern.density)
    groups = mask.reshape(-1, pattern.ways * pattern.g, pattern.m)
    assert (groups.sum(2) == pattern.n).all()
    for chunk in groups:
        ways, counts = chunk.unique(dim=0, return_counts=True)
        assert len(ways) == pattern.ways and (counts == pattern.g).all()


@EVERY
def test_kept_energy_falls_with_the_freedom(pattern):
    scores = scores_for(pattern)
    kept = [
        float(scores[p.select(scores, pattern.density)].square().sum())
        for p in (Layerwise(), NM(pattern.n, pattern.m), pattern)
    ]
    half = float(scores.square().sum()) * pattern.density
    assert kept[0] > kept[1] > kept[2] > half  # half: what a choice without a look at the scores keeps


def test_the_choice_is_near_the_best_assignment():
    pattern, scores = GroupedNM(1, 3, 2), torch.rand(1, 18, generator=torch.Generator().manual_seed(1))
    table = scores.view(6, 3) @ all_ways(1, 3).float().T
    best = max(float(table[range(6), list(p)].sum()) for p in set(permutations([0, 0, 1, 1, 2, 2])))
    assert float(scores[pattern.select(scores, 1 / 3)].sum()) >= 0.97 * best


def test_other_supports_are_not_allowed():
    pattern = GroupedNM(1, 2, 1)
    good = torch.tensor([[True, False, False, True]])
    assert pattern.allows(good)
    assert not pattern.allows(torch.tensor([[True, False, True, False]]))  # one way twice
    assert not pattern.allows(torch.tensor([[True, True, False, False]]))  # two of two


def test_refusals():
    with pytest.raises(ShapeError, match="24"):
        GroupedNM(2, 4, 1).select(torch.rand(2, 32), 0.5)
    with pytest.raises(SparsityError, match=r"0\.5"):
        GroupedNM(2, 4, 1).select(torch.rand(2, 24), 0.25)
    for wrong in ((0, 4, 1), (4, 4, 1), (2, 4, 0), (8, 16, 1)):
        with pytest.raises(SparsityError):
            GroupedNM(*wrong)


@pytest.mark.parametrize("base", [0.0, 100.0, -100.0])
@pytest.mark.parametrize("spread", [0.0, 50.0])
def test_infinite_scores_are_beyond_every_sum_of_a_group(base, spread):
    scores = torch.full((1, 6), base)
    scores[0, 1] = base + spread
    scores[0, 4], scores[0, 5] = -math.inf, math.inf
    wide = finite(scores)
    assert wide.dtype == torch.float64 and torch.equal(wide[0, :4], scores[0, :4].double())
    low, high = float(wide[0, :4].min()), float(wide[0, :4].max())
    assert wide[0, 4] + 5 * high < 6 * low
    assert wide[0, 5] + 5 * low > 6 * high
    assert finite(torch.full((2, 3), -math.inf)).isfinite().all()
    assert not finite(torch.tensor([[math.nan, 1.0]])).isfinite().all()


def test_where_infinite_scores_come_to_lie():
    inf = math.inf
    assert finite(torch.tensor([[1.0, 4.0, inf, -inf]])).tolist() == [[1.0, 4.0, 4.0 + 4 * 4, 1.0 - 4 * 4]]
    assert finite(torch.tensor([[inf, -inf, inf]])).tolist() == [[3.0, -3.0, 3.0]]  # none is finite: around 0
    assert GroupedNM(1, 2, 1).select(torch.tensor([[-inf, inf, inf, -inf]]), 0.5).tolist() == [[0, 1, 1, 0]]


def test_the_best_pair_goes_first_and_a_swap_mends_what_that_costs():
    """Greedy takes 10 for the first group, which leaves 0 for the second; together 9 + 9 are more."""
    table = torch.tensor([[[10.0, 9.0], [9.0, 0.0]]], dtype=torch.float64)
    first = _greedy(table, 1)
    assert first.tolist() == [[0, 1]]
    assert _improve(table, first.clone()).tolist() == [[1, 0]]
    assert _improve(-table, torch.tensor([[0, 1]])).tolist() == [[0, 1]]
    even = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    for nothing in (even, 0 * even):
        assert _improve(nothing, torch.tensor([[1, 0]])).tolist() == [[1, 0]]  # nothing is gained: nothing moves


def test_chunks_are_judged_apart_and_each_way_has_its_places():
    table = torch.rand(7, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    chosen = _improve(table, _greedy(table, 2))
    assert chosen.shape == (7, 12)
    assert torch.equal(chosen.sort(1).values, torch.arange(6).repeat_interleave(2).expand(7, -1))
    for one, way in zip(table, chosen, strict=True):
        assert torch.equal(_improve(one[None], _greedy(one[None], 2))[0], way)
        kept = one[torch.arange(12), way]
        gain = one[:, way] + one[:, way].T - kept[:, None] - kept[None, :]
        assert gain.max() <= 1e-9  # no swap of two is left that keeps more


def test_a_matrix_without_rows_and_one_of_many_chunks():
    pattern = GroupedNM(1, 2, 1)
    assert pattern.select(torch.rand(0, 8), 0.5).shape == (0, 8)
    scores = torch.rand(2100, 8, generator=torch.Generator().manual_seed(1))  # 4200 chunks: two parts of 4096
    mask = pattern.select(scores, 0.5)
    assert pattern.allows(mask)
    assert torch.equal(mask[-5:], pattern.select(scores[-5:], 0.5))


def test_nan_is_refused_by_name():
    with pytest.raises(DataError, match="1:2:1: the scores hold NaN"):
        GroupedNM(1, 2, 1).select(torch.full((1, 4), math.nan), 0.5)
