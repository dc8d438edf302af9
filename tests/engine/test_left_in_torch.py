"""Layers that the runtime cannot time or pack run in torch, and `explain()` says why."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import rarefy
from rarefy.core.errors import ModelError, WeightError
from rarefy.engine import with_system
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


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_model_of_computed_weights_alone_runs_as_it_was_given(wrapped):
    layer = parametrizations.weight_norm(nn.Linear(8, 8)).eval()
    model, x = (nn.Sequential(layer) if wrapped else layer), torch.randn(2, 8)
    fast = rarefy.compile(model, x, measure=False)
    (row,) = fast.explain().rows
    assert "computed from others" in row.reason and row.shape == (8, 8)
    assert torch.equal(fast(x), model(x))


class Reader(nn.Module):
    """A recurrent net, with a linear layer behind it or none."""

    def __init__(self, cells, head):
        super().__init__()
        torch.manual_seed(0)
        self.cells, self.head = cells(16, 32, num_layers=2, batch_first=True, bidirectional=True), head

    def forward(self, x):
        return self.head(self.cells(x)[0])


@pytest.mark.parametrize("cells", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("variant", ["graph", "layers"])
def test_recurrent_layers_run_in_torch_and_are_listed(cells, linear, variant, prefer, tmp_path):
    prefer(variant)
    head = nn.Linear(64, 128) if linear else nn.Identity()
    model, x = Reader(cells, head).eval(), torch.randn(3, 7, 16)
    with torch.no_grad():
        model.cells.weight_hh_l0[torch.rand_like(model.cells.weight_hh_l0) < 0.9] = 0.0
    if linear:
        rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    fast = rarefy.compile(model, x)
    rows = {row.name: row for row in fast.explain().rows}
    recurrent = {f"cells.{n}" for n, p in model.cells.named_parameters() if p.dim() > 1}
    assert len(recurrent) == 8 and set(rows) == recurrent | ({"head"} if linear else set())
    assert all(f"{cells.__name__} has no native kernel" in rows[name].reason for name in recurrent)
    row = rows["cells.weight_hh_l0"]
    assert row.kernel == "dense" and row.shape[1] == 32 and 0.85 < row.sparsity < 0.95
    assert fast.explain().whole[0]["runs"].endswith(variant if linear else "faster)")
    rarefy.save(fast, tmp_path / "saved")
    back = rarefy.load(tmp_path / "saved", model=Reader(cells, nn.Linear(64, 128) if linear else nn.Identity()))
    assert {row.name for row in back.explain().rows} == set(rows)
    with torch.no_grad():
        for batch in (x, torch.randn(1, 4, 16)):
            for way in (fast, back):
                torch.testing.assert_close(way(batch), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_integers_cannot_hold_are_refused_by_name(bad):
    model, x = _net(nn.Linear(64, 8)), torch.randn(4, 256)
    with torch.no_grad():
        model[2].weight[3, 5] = bad
    for types in ({"weights": "int8"}, {"weights": "int4"}, {"weights": "int8", "activations": "int8"}):
        with pytest.raises(WeightError, match=rf"compile: 2: weight\[3, 5\] is {bad}, which weights=.* cannot hold"):
            rarefy.compile(model, x, **types)
    for types in ({}, {"weights": "bf16"}):
        fast = rarefy.compile(model, x, measure=False, **types)
        assert torch.equal(fast(x).isfinite(), model(x).isfinite())


def test_convolutions_of_8_bits_are_refused_by_name_too():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    with torch.no_grad():
        model[2].weight[1, 2, 0, 1] = float("nan")
    with pytest.raises(WeightError, match=r"compile: 2: weight\[1, 19\] is nan"):
        rarefy.compile(model, torch.randn(2, 3, 16, 16), weights="int8", activations="int8")
    rarefy.compile(model, torch.randn(2, 3, 16, 16), weights="int8", measure=False)  # convolutions stay in float32


def test_a_system_leaves_computed_weights_and_names_what_it_cannot_round():
    model, x = _net(LAST["weight_norm"]()), torch.randn(4, 256)
    run = with_system(model, "sparamx", weights="fp32")
    assert [type(layer).__name__ for layer in (run[0][0], run[2])] == ["SparseLinear", "ParametrizedLinear"]
    torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model[0][2].weight[1, 2] = float("nan")
    with pytest.raises(WeightError, match=r"with_system: 0\.2: .*weight\[1, 2\] is nan"):
        with_system(model, "sparamx", weights="int8")


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


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_layers_cut_to_nothing_compile(weights):
    """As pruning of whole units may leave them."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 0), nn.ReLU(), nn.Linear(0, 8)).eval(), torch.randn(2, 8)
    fast = rarefy.compile(model, x, weights=weights)
    torch.testing.assert_close(fast(x), model(x), rtol=0.1, atol=0.1)
