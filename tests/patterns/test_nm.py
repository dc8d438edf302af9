import itertools

import pytest
import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.protocols import Pattern
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 8), (3, 5), (4, 4)])
def test_each_group_keeps_its_best_by_brute_force(n: int, m: int) -> None:
    def check(pattern: Pattern) -> None:
        scores = torch.randn(4, 2 * m)
        kept = pattern.select(scores, n / m)
        for row, mask in zip(scores.reshape(-1, m), kept.reshape(-1, m), strict=True):
            best = max(itertools.combinations(range(m), n), key=lambda c: float(row[list(c)].sum()))
            assert mask.nonzero().flatten().tolist() == list(best)

    if n == m:
        check(NM(n, m))
    else:
        assert_beats_impostor(check, NM(n, m), Layerwise())


def test_fewer_than_n_in_a_group_are_allowed_and_more_are_not() -> None:
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    assert NM(2, 4).allows(mask[:1])
    assert not NM(2, 4).allows(mask)


def test_another_density_contradicts_the_pattern() -> None:
    with pytest.raises(SparsityError, match=r"2:4: keeps 0\.5 of the weights, but density 0\.3 was asked"):
        NM(2, 4).select(torch.randn(2, 8), 0.3)


def test_width_that_does_not_divide() -> None:
    with pytest.raises(ShapeError, match=r"2:4: a \(3, 10\) matrix has 10 columns \(in\), not a multiple of 4"):
        NM(2, 4).select(torch.randn(3, 10), 0.5)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, 4), (1, 0)])
def test_impossible_patterns(n: int, m: int) -> None:
    with pytest.raises(SparsityError, match="needs 0 < n <= m"):
        NM(n, m)
