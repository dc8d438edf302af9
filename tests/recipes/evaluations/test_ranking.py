"""Against definitions worked out by hand and by slow code."""

import math
import random

import pytest
import torch

from rarefy.core.errors import DataError
from rarefy.recipes.evaluations.ranking import ndcg, ranks, spearman


def slow_rank(values, i):
    """The mean place that values[i] can have in a sorted list."""
    less = sum(v < values[i] for v in values)
    same = sum(v == values[i] for v in values)
    return less + (same - 1) / 2


def test_ties_share_the_mean_of_their_ranks():
    choose = random.Random(0)
    values = [float(choose.randint(0, 9)) for _ in range(60)]
    assert ranks(torch.tensor(values)).tolist() == [slow_rank(values, i) for i in range(60)]


def test_spearman_of_a_textbook_example():
    # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)): iq and hours of television of ten people, sum d^2 = 194.
    iq = [106.0, 100.0, 86.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0]
    tv = [7.0, 27.0, 2.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0]
    assert spearman(torch.tensor(iq), torch.tensor(tv)) == pytest.approx(1 - 6 * 194 / (10 * 99))


def test_spearman_only_sees_order():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert spearman(x, x.exp()) == pytest.approx(1.0)
    assert spearman(x, -(x**3)) == pytest.approx(-1.0)
    assert math.isnan(spearman(x, torch.zeros(50)))


def test_ndcg_by_hand():
    # Ranking 2, 0, 1; grades 3 for document 0 and 1 for document 1: DCG = 3/log2(3) + 1/log2(4), ideal 3 + 1/log2(3).
    scores = torch.tensor([[0.5, 0.1, 0.9]])
    wanted = (3 / math.log2(3) + 1 / 2) / (3 + 1 / math.log2(3))
    assert ndcg(scores, [{0: 3.0, 1: 1.0}]) == pytest.approx(wanted)
    assert ndcg(scores, [{0: 3.0, 1: 1.0}], top=1) == 0.0


def test_ndcg_is_one_for_the_right_order_and_a_mean_over_queries():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    assert ndcg(scores, [{0: 2.0, 1: 1.0}, {2: 1.0}]) == pytest.approx(1.0)
    assert ndcg(scores, [{0: 1.0}, {0: 1.0}]) == pytest.approx((1 + 1 / 2) / 2)
    with pytest.raises(DataError, match="without a relevant"):
        ndcg(scores, [{0: 1.0}, {}])
