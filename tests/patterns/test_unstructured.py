import pytest
import torch

from rarefy.core.protocols import Pattern
from rarefy.patterns.unstructured import Layerwise, Rowwise


def test_layerwise_keeps_the_largest_of_the_layer() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0], [1.0, 2.0, 6.0]])
    assert Layerwise().select(scores, 0.5).tolist() == [[True, True, True], [False, False, False]]


def test_rowwise_keeps_the_largest_of_each_row() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0], [1.0, 2.0, 6.0]])
    assert Rowwise().select(scores, 1 / 3).tolist() == [[True, False, False], [False, False, True]]


def test_counts_round_over_the_layer_or_over_the_row() -> None:
    assert Layerwise().count(10, 5, 0.3) == 15
    assert Rowwise().count(10, 5, 0.3) == 20


def test_the_count_of_a_row_follows_its_width() -> None:
    scores = torch.arange(24.0).reshape(3, 8)
    assert Rowwise().select(scores, 0.25).sum(1).tolist() == [2] * 3
    assert Rowwise().select(scores.T, 0.34).sum(1).tolist() == [1] * 8


@pytest.mark.parametrize("pattern", [Layerwise(), Rowwise()], ids=str)
def test_any_support_is_allowed(pattern: Pattern) -> None:
    for mask in (torch.zeros(2, 3).bool(), torch.ones(2, 3).bool(), torch.eye(3).bool(), torch.zeros(0, 3).bool()):
        assert pattern.allows(mask) is True
