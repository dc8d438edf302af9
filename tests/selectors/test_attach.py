"""Selectors on a model: what the hooks do, that they are found again, and that they leave no trace."""

import copy

import pytest
import torch
from torch import nn

from rarefy.core.errors import ModelError, ShapeError
from rarefy.selectors import (
    Threshold,
    TopK,
    detach,
    feed_forwards,
    hidden_selector,
    input_selector,
    projections,
    select_hidden,
    select_inputs,
)
from transformers_tiny import PARTS, ids, output, tiny


@pytest.mark.parametrize("kind", PARTS)
def test_every_class_has_its_places(kind: str) -> None:
    model = tiny(kind)
    found = projections(model)
    assert [p.part for p in found if p.block == 0] == PARTS[kind].split()
    assert [p.part for p in found if p.block == 1] == PARTS[kind].split()
    assert all(model.get_submodule(p.name) is p.module for p in found)
    layers = feed_forwards(model)
    assert len(layers) == 2 and {layer.kind for layer in layers} == {"gated" if "gate" in PARTS[kind] else "plain"}
    assert all(isinstance(layer.activation, nn.Module) for layer in layers)
    assert {id(p.module) for p in found if p.part == "down"} == {id(layer.down) for layer in layers}


def test_a_wrapped_model_has_them_too() -> None:
    wrapped = nn.Sequential(nn.Identity(), tiny("Llama"))
    assert [p.block for p in projections(wrapped[1])] == [0] * 7 + [1] * 7
    assert len(projections(wrapped)) == 14


def test_the_blocks_of_an_encoder_and_a_decoder_are_told_apart() -> None:
    from transformers import BartConfig, BartModel

    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 50}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_layers": 2, "decoder_layers": 2}
    found = projections(BartModel(BartConfig(**sizes, **heads)))
    blocks = {p.name.partition("layers.")[0] + p.name.partition("layers.")[2][0]: p.block for p in found}
    assert blocks == {"encoder.0": 0, "encoder.1": 1, "decoder.0": 2, "decoder.1": 3}
    assert [p.block for p in found] == [0] * 6 + [1] * 6 + [2] * 10 + [3] * 10


def test_a_model_without_any_says_what_was_looked_for() -> None:
    with pytest.raises(ModelError, match=r"gate_proj, up_proj, down_proj.*found only Linear, ReLU, Sequential"):
        feed_forwards(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(ModelError, match="no feed-forward layer is known"):
        projections(nn.Linear(3, 3))


def test_inputs_are_masked_and_the_state_is_untouched() -> None:
    layer, x = nn.Linear(6, 3), torch.randn(5, 6)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    handle = select_inputs(layer, TopK(2))
    kept = TopK(2).mask(x)
    assert torch.equal(layer(x), nn.functional.linear(x * kept, layer.weight, layer.bias))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items()) and len(before) == 2
    handle.remove()
    assert input_selector(layer) is None
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_hidden_zeros_are_those_of_the_selector() -> None:
    model, tokens = tiny("Llama"), ids()
    for layer in feed_forwards(model):
        select_hidden(layer.activation, TopK(16))
    seen: list[torch.Tensor] = []
    hook = feed_forwards(model)[1].down.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    output(model, tokens)
    hook.remove()
    assert ((seen[0] != 0).sum(-1) == 16).all()


@pytest.mark.parametrize("kind", PARTS)
def test_a_full_selection_changes_nothing_and_detach_takes_all_off(kind: str) -> None:
    model, tokens = tiny(kind), ids()
    dense = output(model, tokens)
    for place in projections(model):
        select_inputs(place.module, Threshold(torch.zeros(())))
    for layer in feed_forwards(model):
        select_hidden(layer.activation, Threshold(torch.zeros(())))
    assert torch.equal(output(model, tokens), dense)
    assert detach(model) == len(projections(model)) + 2
    assert detach(model) == 0 and torch.equal(output(model, tokens), dense)


def test_they_are_found_again_also_in_a_copy() -> None:
    model = tiny("OPT")
    layer, chosen, hidden = feed_forwards(model)[0], Threshold(torch.tensor(0.5)), TopK(3)
    select_inputs(layer.up, chosen)
    select_hidden(layer.activation, hidden)
    assert input_selector(layer.up) is chosen and hidden_selector(layer.activation) is hidden
    assert input_selector(layer.down) is None and hidden_selector(layer.up) is None
    twin = feed_forwards(copy.deepcopy(model))[0]
    found = input_selector(twin.up)
    assert isinstance(found, Threshold) and found.threshold == 0.5 and found is not chosen
    assert isinstance(hidden_selector(twin.activation), TopK)


def test_a_second_selector_and_wrong_places_are_errors() -> None:
    layer, act = nn.Linear(4, 2), nn.ReLU()
    select_inputs(layer, TopK(1))
    select_hidden(act, TopK(1))
    with pytest.raises(ModelError, match=r"Linear has a selector already; call detach\(model\)"):
        select_inputs(layer, TopK(2))
    with pytest.raises(ModelError, match="ReLU has a selector already"):
        select_hidden(act, TopK(2))
    with pytest.raises(ModelError, match="LayerNorm is not a linear layer"):
        select_inputs(nn.LayerNorm(3), TopK(1))
    with pytest.raises(ModelError, match="is a function"):
        select_hidden(nn.functional.silu, TopK(1))
    with pytest.raises(ShapeError, match="made for 5 inputs, Linear has 4"):
        select_inputs(nn.Linear(4, 2), Threshold(torch.zeros(5)))
