"""Layers that the runtime cannot time or pack run in torch, and `explain()` says why."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import rarefy
from rarefy.core.errors import ModelError
from rarefy.ops import available

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")


def _net(last):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64)).eval()
    rarefy.prune(model, "magnitude", sparsity=0.95, measure=False)
    return nn.Sequential(model, nn.ReLU(), last).eval()


LAST = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(64, 8)),
    "prune": lambda: prune.l1_unstructured(nn.Linear(64, 8), "weight", amount=0.5),
}


@pytest.mark.parametrize("variant", ["graph", "layers"])
@pytest.mark.parametrize("last", LAST)
def test_a_layer_whose_weight_is_computed_stays_in_torch(last, variant, prefer):
    prefer(variant)
    model, x = _net(LAST[last]()), torch.randn(64, 256)
    fast = rarefy.compile(model, x)
    rows = {row.name: row for row in fast.explain().rows}
    assert set(rows) == {"0.0", "0.2", "2"} and rows["0.0"].kernel != "dense"
    assert rows["2"].kernel == "dense" and "computed from others" in rows["2"].reason and rows["2"].shape == (8, 64)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_compiled_model_with_such_a_layer_is_loaded_again(prefer, tmp_path):
    prefer("graph")
    model, x = _net(LAST["weight_norm"]()), torch.randn(64, 256)
    rarefy.save(rarefy.compile(model, x), tmp_path / "saved")
    back = rarefy.load(tmp_path / "saved", model=_net(LAST["weight_norm"]()))
    torch.testing.assert_close(back(x), model(x), rtol=1e-4, atol=1e-5)


def test_pruning_still_refuses_a_weight_that_is_computed():
    with pytest.raises(ModelError, match="computed from others"):
        rarefy.prune(_net(parametrizations.weight_norm(nn.Linear(64, 8))), "magnitude", sparsity=0.5, measure=False)


def test_a_model_of_computed_weights_alone_says_so():
    with pytest.raises(ModelError, match="all 1 are ignored or computed from other weights"):
        rarefy.compile(nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8))), torch.randn(2, 8), measure=False)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_layers_that_see_nested_tensors_stay_in_torch():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    x, padding = torch.randn(4, 16, 64), torch.zeros(4, 16, dtype=torch.bool)
    padding[:, 10:] = True
    fast = rarefy.compile(model, {"src": x, "src_key_padding_mask": padding}, measure=False)
    assert fast.explain().rows and all("nested tensors" in row.reason for row in fast.explain().rows if not row.tokens)
    with torch.no_grad():
        ours, theirs = (which(src=x, src_key_padding_mask=padding) for which in (fast, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
