"""The check of `sten`: every way equally often, and what that costs."""

from itertools import permutations

import pytest
import torch

from rarefy.core.errors import ShapeError, SparsityError
from rarefy.patterns.grouped_nm import GroupedNM, all_ways
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
