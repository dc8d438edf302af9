"""Selectors on models that are no decoders: compiled layers and graphs look at the same inputs."""

import pytest
import torch
from torch import nn

import rarefy
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


@native
@pytest.mark.parametrize("selector", [Threshold(torch.tensor(0.6)), TopK(12)])
def test_packed_layers_keep_their_selectors(selector):
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8)).eval()
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    plain = model(x)
    for layer in (model[0], model[2]):
        select_inputs(layer, selector)
    sites = find_sites(model)[0]
    plans = {s.name: LayerPlan(s, ((1 << 20, pack(s.parameter.detach(), "spmv-scalar-bitmask")),)) for s in sites}
    layers = with_sparse_layers(model, plans)
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
