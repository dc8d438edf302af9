"""Every pattern keeps an exact count of allowed entries, the best ones, in a fixed order."""

import math

import pytest
import torch
from torch import Tensor

from contracts.examples import PATTERNS, make
from rarefy.core.errors import DataError, RarefyError, ShapeError, SparsityError
from rarefy.core.protocols import Pattern
from rarefy.core.registry import entries
from rarefy.patterns.grouped_nm import GroupedNM, all_ways
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.transposable import Transposable, transposable_ways

FOUND = list(dict.fromkeys([*PATTERNS, *(make(e) for e in entries("pattern"))]))
EVERY = pytest.mark.parametrize("pattern", FOUND, ids=str)
DENSITIES = (0.0, 0.05, 0.3, 0.5, 0.77, 1.0)


def densities(pattern: Pattern) -> tuple[float, ...]:
    return (pattern.density,) if isinstance(pattern, NM | GroupedNM | PaddedNM | Transposable) else DENSITIES


def scores_of(kind: str, rows: int = 8, n: int = 16) -> Tensor:
    scores = torch.randn(rows, n)
    if kind == "ties":
        scores = scores.round()
    if kind == "equal":
        scores = torch.ones(rows, n)
    if kind == "extreme":
        scores[0], scores[1], scores[:, 3] = 3e37, -3e37, 1e-42
        scores[2, ::2] = -math.inf
    return scores


@EVERY
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "extreme"])
def test_count_is_exact_and_allowed(pattern: Pattern, kind: str) -> None:
    for density in densities(pattern):
        scores = scores_of(kind)
        mask = pattern.select(scores, density)
        assert mask.dtype is torch.bool and mask.shape == scores.shape
        assert int(mask.sum()) == pattern.count(*scores.shape, density)
        assert pattern.allows(mask)


@EVERY
def test_count_is_near_the_asked_density(pattern: Pattern) -> None:
    for density in densities(pattern):
        tile = pattern.granularity[0] * pattern.granularity[1]
        assert abs(pattern.count(8, 16, density) - density * 8 * 16) <= max(tile, 8) / 2 + 1e-6


@EVERY
def test_same_scores_same_mask_and_scores_untouched(pattern: Pattern) -> None:
    for density in densities(pattern):
        scores = scores_of("ties")
        before = scores.clone()
        first = pattern.select(scores, density)
        assert torch.equal(first, pattern.select(scores, density))
        assert torch.equal(scores, before)


@EVERY
def test_only_the_order_counts(pattern: Pattern) -> None:
    for density in densities(pattern):
        scores = scores_of("random")
        assert torch.equal(pattern.select(scores, density), pattern.select(scores * 8.0, density))


@EVERY
def test_ties_go_to_the_lower_index(pattern: Pattern) -> None:
    """With equal scores, the kept tiles of a closed group come before the dropped ones, row by row."""
    r, c = pattern.granularity
    closed = (pattern.span or 16) // (c if pattern.span is None else 1)
    for density in densities(pattern):
        mask = pattern.select(torch.ones(r, 16), density)
        if isinstance(pattern, Transposable):  # its columns are counted too: the first of all masks
            first = transposable_ways(pattern.n, pattern.m)[0]
            assert torch.equal(mask, first.repeat(1, 16 // pattern.m))
            continue
        if isinstance(pattern, GroupedNM):  # it may not treat groups alike: the ways come in their own order
            ways = all_ways(pattern.n, pattern.m).repeat_interleave(pattern.g, 0)
            assert torch.equal(mask.reshape(-1, *ways.shape), ways.expand(mask.shape[0], -1, -1))
            continue
        tiles = mask if pattern.span else mask.reshape(r, 16 // c, c)[0, :, :1].t()
        groups = tiles.reshape(-1, closed).int()
        assert (groups.diff(dim=1) <= 0).all(), mask.int()


@EVERY
def test_what_is_gone_comes_last(pattern: Pattern) -> None:
    """Entries scored minus infinity are only kept where nothing else is left."""
    for density in densities(pattern):
        scores = torch.rand(8, 16)
        gone = torch.zeros(8, 16, dtype=torch.bool)
        gone[4:, ::4] = True
        gone[4:, 1::4] = True
        gone[:4, 2::4] = True
        gone[:4, 3::4] = True
        kept = pattern.select(scores.masked_fill(gone, -math.inf), density)
        if kept.sum() <= 32 and pattern.granularity == (1, 1):
            assert not (kept & gone).any()


@EVERY
def test_a_larger_score_is_kept_first(pattern: Pattern) -> None:
    for density in densities(pattern):
        if 0 < density < 1:
            scores = torch.rand(8, 16)
            kept = pattern.select(scores, density)
            assert scores[kept].mean() > scores[~kept].mean()


@EVERY
def test_nan_scores_are_refused(pattern: Pattern) -> None:
    scores = torch.rand(8, 16)
    scores[3, 5] = math.nan
    with pytest.raises(DataError, match="NaN"):
        pattern.select(scores, densities(pattern)[0] or 0.5)


@EVERY
@pytest.mark.parametrize("density", [-0.1, 1.5, math.nan])
def test_densities_out_of_range_are_refused(pattern: Pattern, density: float) -> None:
    with pytest.raises(SparsityError):
        pattern.select(torch.rand(8, 16), density)


@EVERY
def test_a_matrix_that_does_not_divide_is_refused(pattern: Pattern) -> None:
    r, c = pattern.granularity
    if (r, c) == (1, 1):
        return
    rows, n = (r * 3 + 1 if r > 1 else 4), (c * 3 + 1 if c > 1 else 4)
    with pytest.raises(ShapeError, match="multiple of") as caught:
        pattern.select(torch.rand(rows, n), densities(pattern)[-1])
    assert isinstance(caught.value, RarefyError) and "choose" in str(caught.value)


@EVERY
def test_structure_is_seen(pattern: Pattern) -> None:
    """A pattern that restricts supports says no to one that breaks it."""
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[0, :3] = True
    unrestricted = {"layerwise", "rowwise"}
    assert pattern.allows(mask) is (type(pattern).__name__.lower() in unrestricted)
