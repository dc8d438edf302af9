"""Selectors on models that are no decoders: compiled layers and graphs look at the same inputs."""

import pytest
import torch
from torch import nn

import rarefy
from rarefy.activations.deja_vu import DejaVu
from rarefy.activations.relufication import Relufication
from rarefy.core.site import find_sites
from rarefy.engine.plan import LayerPlan
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.ops import available, pack
from rarefy.selectors import Threshold, TopK, feed_forwards, projections, select_hidden, select_inputs

transformers = pytest.importorskip("transformers")
native = pytest.mark.skipif(not available(), reason="the native module is not built")


def bert():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= (torch.rand(parameter.shape) < 0.2) * 8
    return model


def plans_of(model):
    """Every linear layer packed, for any number of tokens."""
    sites = [site for site in find_sites(model)[0] if isinstance(site.modules[0], nn.Linear)]
    return {s.name: LayerPlan(s, ((1 << 20, pack(s.parameter.detach(), "spmv-scalar-bitmask")),)) for s in sites}


@native
@pytest.mark.parametrize("selector", [Threshold(torch.tensor(0.6)), TopK(12)])
def test_packed_layers_keep_their_selectors(selector):
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8)).eval()
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    plain = model(x)
    for layer in (model[0], model[2]):
        select_inputs(layer, selector)
    layers = with_sparse_layers(model, plans_of(model))
    torch.testing.assert_close(layers(x), model(x))
    assert not torch.allclose(layers(x), plain)


def test_an_encoder_with_selected_inputs_and_neurons():
    model = bert()
    ids = {"input_ids": torch.arange(20).view(2, 10)}
    with torch.no_grad():
        plain = model(**ids).last_hidden_state
        for place in projections(model):
            select_inputs(place.module, Threshold(torch.tensor(0.4)))
        for layer in feed_forwards(model):
            select_hidden(layer.activation, Threshold(torch.tensor(0.1)))
        want = model(**ids).last_hidden_state
    fast = rarefy.compile(model, ids, measure=False)
    got = fast(**ids).last_hidden_state
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(got, plain, rtol=1e-3, atol=1e-4)
    other = {"input_ids": torch.arange(7).view(1, 7)}
    with torch.no_grad():
        torch.testing.assert_close(
            fast(**other).last_hidden_state, model(**other).last_hidden_state, rtol=1e-3, atol=1e-4
        )


@native
def test_an_encoder_with_predictors_chooses_anew_for_every_input():
    model = bert()
    Relufication().apply(model)
    text = [{"input_ids": torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(i))} for i in (1, 2)]
    DejaVu(0.7, heads=0.5, rank=4, steps=3).apply(model, text[:1], text[1:])
    layers = with_sparse_layers(model, plans_of(model))
    for ids in (torch.arange(20).view(2, 10), torch.arange(20).flip(0).view(2, 10), torch.arange(7).view(1, 7)):
        with torch.no_grad():
            got, want = layers(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
