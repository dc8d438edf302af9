import torch

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
