"""Positive and BlockTopK; what is found, replaced and paused on a model; layers by name."""

import contextlib

import pytest
import torch
from torch import nn

from rarefy.core.errors import ModelError, ShapeError, SparsityError
from rarefy.selectors import Threshold, TopK, input_selector, select_hidden, select_inputs
from rarefy.selectors.attach import attached, hidden_selector, paused, reselect_inputs
from rarefy.selectors.block_top_k import BlockTopK
from rarefy.selectors.positive import Positive
from rarefy.selectors.readers import readers
from transformers_tiny import tiny


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def test_positive_is_a_relu() -> None:
    x = torch.tensor([[1.0, -1.0, 0.0, 2.0], [-0.5, -0.1, 0.0, -3.0]])
    assert torch.equal(x * Positive().mask(x), x.relu())
    found = Positive()(x)
    assert found.index.tolist() == [[0, 3], [0, 0]] and found.value.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert Positive().width is None


def test_blocks_keep_their_largest_with_ties_to_the_lower_index() -> None:
    x = torch.tensor([[1.0, -1.0, 0.5, 0.0, -7.0, 7.0]])
    assert BlockTopK(1, 3).mask(x).tolist() == [[True, False, False, False, True, False]]
    assert BlockTopK(2, 3)(x).index.tolist() == [[0, 1, 4, 5]]
    assert BlockTopK(0, 2).mask(x).sum() == 0 and BlockTopK(2, 2).mask(x).all() and BlockTopK(1, 2).width is None
    with pytest.raises(ShapeError, match="6 features are no multiple of m = 4"):
        BlockTopK(2, 4).mask(x)
    for n, m in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(SparsityError, match="give 0 <= n <= m, m >= 1"):
            BlockTopK(n, m)


def test_a_weight_of_top_k_is_a_vector() -> None:
    with pytest.raises(ShapeError, match=r"TopK: the weight has shape \(2, 2\)"):
        TopK(1, torch.ones(2, 2))


def test_selectors_are_listed_replaced_and_paused() -> None:
    model, x = net(), torch.randn(5, 6)
    dense = model(x)
    first, second, hidden = TopK(1), TopK(2), Threshold(torch.tensor(0.7))
    select_inputs(model[0], first)
    select_hidden(model[1], hidden)
    assert list(attached(model)) == [("0", model[0], first), ("1", model[1], hidden)]
    reselect_inputs(model[0], second)
    assert input_selector(model[0]) is second and hidden_selector(model[1]) is hidden
    selected = model(x)
    assert not torch.equal(selected, dense)
    with contextlib.suppress(RuntimeError), paused(model):
        assert torch.equal(model(x), dense)
        raise RuntimeError("an error inside leaves them as they were, too")
    assert torch.equal(model(x), selected)


def test_nothing_is_found_on_what_has_none() -> None:
    for nothing in ("relu", None, nn.ReLU()):
        assert input_selector(nothing) is None and hidden_selector(nothing) is None
    with pytest.raises(ModelError, match="has no selector; use select_inputs"):
        reselect_inputs(net()[0], TopK(1))
    with pytest.raises(ModelError, match="is a function, which takes no hooks"):
        select_hidden(torch.relu, TopK(1))


def test_layers_by_name_or_by_part() -> None:
    model = tiny("Llama")
    down = readers(model, parts=["down"])
    assert len(down) == 2 and all(name.endswith("down_proj") for name in down)
    assert len(readers(model)) == 14
    small = net()
    assert readers(small, ["2", "0"]) == {"2": small[2], "0": small[0]}
    assert readers(small, ["1"], linear=False) == {"1": small[1]}
    for names, why in ((["1"], "'1' is a ReLU"), (["9"], "'9' is not there"), ([], "is empty")):
        with pytest.raises(ModelError, match=why):
            readers(small, names)
