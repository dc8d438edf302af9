"""Choices that are made ahead of their use, and what makes them."""

import pytest
import torch
from torch import nn

from rarefy.core.errors import SparsityError
from rarefy.selectors import detach, select_hidden
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.predictor import Predictor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.activation = nn.Linear(4, 6), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.first(x))


def test_the_likeliest_of_each_token_spread_over_their_features():
    net = Predictor(6, 6, 0)
    with torch.no_grad():
        net.second.weight.copy_(torch.eye(6))
        net.second.bias.zero_()
    x = torch.tensor([[[3.0, 1.0, 2.0, 2.0, -5.0, 0.0]]])
    assert Likeliest(net, 2)(x).tolist() == [[[True, False, True, False, False, False]]]
    assert Likeliest(net, 2, spread=2)(x).shape == (1, 1, 12)
    assert not Likeliest(net, 0)(x).any() and Likeliest(net, 6)(x).all()


def test_a_batch_gets_its_union_and_everything_where_that_is_crowded():
    net = Predictor(4, 4, 0)
    with torch.no_grad():
        net.second.weight.copy_(torch.eye(4))
        net.second.bias.zero_()
    x = torch.tensor([[[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]]])
    union = Likeliest(net, 1, full=0.75)(x)
    assert union.tolist() == [[[True, True, False, False]]] * 2
    assert Likeliest(net, 1, full=0.5)(x).all()


@pytest.mark.parametrize("wrong", [{"kept": -1}, {"kept": 1, "spread": 0}, {"kept": 1, "full": 0.0}])
def test_choices_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SparsityError, match="Likeliest"):
        Likeliest(Predictor(4, 4, 2), **wrong)


def test_detach_takes_the_predictor_along():
    model, x = Net(), torch.randn(3, 4)
    dense = model(x)
    chosen = Foreseen(lambda x: torch.zeros(len(x), 6, dtype=torch.bool), 6)
    chosen.watch(model.first)
    select_hidden(model.activation, chosen)
    assert not model(x).any()
    assert detach(model) == 1 and not model.first._forward_pre_hooks
    assert torch.equal(model(x), dense)
