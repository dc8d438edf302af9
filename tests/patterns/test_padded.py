"""N:M on any width: whole groups as ever, the last one as short as it comes."""

import pytest
import torch

from rarefy.core.errors import SparsityError
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.parse import parse_pattern


@pytest.mark.parametrize(("n", "m", "width"), [(2, 4, 8), (2, 4, 9), (2, 4, 10), (2, 4, 11), (3, 5, 9), (2, 4, 3)])
def test_every_group_keeps_its_best_and_the_last_what_it_has(n: int, m: int, width: int) -> None:
    scores = torch.randn(4, width)
    kept = PaddedNM(n, m).select(scores, n / m)
    for row, mask in zip(scores, kept, strict=True):
        for begin in range(0, width, m):
            group, chosen = row[begin : begin + m], mask[begin : begin + m]
            best = group.topk(min(n, len(group))).indices.tolist()
            assert sorted(best) == chosen.nonzero().flatten().tolist()
    assert int(kept.sum()) == PaddedNM(n, m).count(4, width, n / m)


@pytest.mark.parametrize(("width", "of_a_row"), [(8, 4), (9, 5), (10, 6), (11, 6), (3, 2), (0, 0)])
def test_counts(width: int, of_a_row: int) -> None:
    assert PaddedNM(2, 4).count(3, width, 0.5) == 3 * of_a_row


def test_a_last_group_that_is_too_full_is_not_allowed() -> None:
    mask = torch.tensor([[True, True, False, False, True, True, False]])
    assert PaddedNM(2, 4).allows(mask)
    mask[0, 6] = True
    assert not PaddedNM(2, 4).allows(mask)
    mask[0, 6], mask[0, 2] = False, True
    assert not PaddedNM(2, 4).allows(mask)


def test_its_name_and_what_it_tells_of_itself() -> None:
    pattern = parse_pattern("2:4+")
    assert pattern == PaddedNM(2, 4) and str(pattern) == "2:4+"
    assert (pattern.granularity, pattern.span, pattern.density) == ((1, 1), 4, 0.5)


def test_other_densities_and_impossible_numbers_are_refused() -> None:
    for call in (PaddedNM(2, 4).count, lambda rows, n, d: PaddedNM(2, 4).select(torch.rand(rows, n), d)):
        with pytest.raises(SparsityError, match=r"2:4: keeps 0\.5 of the weights, but density 0\.25 was asked"):
            call(4, 8, 0.25)
    with pytest.raises(SparsityError, match="0 < n <= m"):
        PaddedNM(5, 4)
    assert PaddedNM(4, 4).select(torch.rand(2, 5), 1.0).all() and NM(4, 4).density == 1.0
