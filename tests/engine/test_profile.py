"""Profiles name every step of whatever runs, with the work that the shapes and the zeros say."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from rarefy.core.errors import RarefyError
from rarefy.engine.ceiling import Ceiling, ceiling
from rarefy.engine.demand import Demand, Step
from rarefy.engine.profile_report import Profile, profile_of
from rarefy.ops import available

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")
LIMITS = Ceiling(10.0, {"fp32": 100.0, "int8": 400.0})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 32)

    def forward(self, x, scale=None):
        y = self.second(self.norm(F.gelu(self.first(x))))
        return y if scale is None else y * scale


def net() -> Net:
    model = Net().eval()
    rarefy.prune(model, "magnitude", sparsity=0.75, measure=False)
    return model


def test_a_rate_is_work_over_time_and_the_roofline_the_nearer_ceiling():
    steps = [Step("a", "linear", 2.0, Demand("k", flops=1e8, nbytes=4e6)), Step("b", "norm", 6.0)]
    found = profile_of(steps, 9.0, "graph", 2, LIMITS)
    first, second = found.rows
    assert (first.share, second.share) == (0.25, 0.75)
    assert first.gbps == pytest.approx(2.0) and first.gflops == pytest.approx(50.0)
    assert first.roofline == pytest.approx(0.5)  # of the arithmetic; of the bandwidth it would be 0.2
    assert second.gbps is second.gflops is second.roofline is None
    assert dict(found) == {"norm": 6.0, "linear": 2.0, "whole": 9.0}
    assert json.loads(json.dumps(found.to_dict()))["rows"][0]["kernel"] == "k"


@pytest.mark.parametrize("tokens", [24, 7])
def test_a_graph_tells_its_layers_their_kernels_and_their_non_zeros(prefer, tokens):
    prefer("graph")
    model = net()
    fast = rarefy.compile(model, torch.randn(24, 64))
    found = fast.profile(torch.randn(tokens, 64), rounds=2)
    linear = [row for row in found.rows if row.kind == "linear"]
    assert [row.kernel for row in linear] == [row.kernel for row in fast.explain().rows]
    for row, layer in zip(linear, (model.first, model.second), strict=True):
        flops = 2 * int(layer.weight.count_nonzero()) * tokens
        assert row.gflops == pytest.approx(flops / row.ms / 1e6)
        ends = 4 * tokens * (layer.in_features + layer.out_features)
        assert ends < row.nbytes < ends + 4 * layer.weight.numel()
    norm = next(row for row in found.rows if row.kind == "norm")
    assert norm.nbytes == 2 * 4 * tokens * 128
    assert sum(row.share for row in found.rows) == pytest.approx(1.0)
    assert found.whole_ms > 0 and "graph" in found.runs and "GFLOP/s" in str(found)


@pytest.mark.parametrize("variant", ["layers", "source"])
def test_layers_and_models_as_given_are_profiled_module_by_module(prefer, variant):
    prefer(variant)
    fast = rarefy.compile(net(), torch.randn(24, 64))
    found = fast.profile()
    assert [row.name for row in found.rows] == ["first", "norm", "second", "between the modules"]
    kernels = [row.kernel for row in found.rows if row.kind == "linear"]
    assert all((kernel == "dense") == (variant == "source") for kernel in kernels)


def test_8_bit_rows_are_steps_of_their_own():
    fast = rarefy.compile(net(), torch.randn(24, 64), weights="int8", activations="int8", measure=False)
    found = fast.profile(rounds=1)
    if "graph" in found.runs:
        assert {"quantise", "linear8"} <= set(found)
        assert next(row for row in found.rows if row.kind == "quantise").nbytes == 5 * 24 * 64


def test_arguments_by_keyword_and_shapes_that_no_example_has(prefer):
    prefer("graph")
    fast = rarefy.compile(net(), {"x": torch.randn(24, 64), "scale": torch.ones(32)})
    assert fast.profile(scale=torch.ones(32), x=torch.randn(5, 64), rounds=1)["linear"] > 0
    assert fast.profile(torch.randn(3, 64), rounds=1).runs == "layers"  # no example is called so
    with pytest.raises(RarefyError, match="x"):
        fast.profile(x=torch.randn(24, 65), scale=torch.ones(32))


def test_convolutions_are_told_one_by_one():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2)
    ).eval()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    x = torch.randn(2, 3, 16, 16)
    fast = rarefy.compile(model, x, measure=False)
    found = fast.profile(x, rounds=2)
    convs = [row for row in found.rows if row.kind.startswith("conv")]
    assert "graph" in found.runs and len(convs) == 2 and all(row.kernel for row in convs)
    counts = [2 * int(model[0].weight.count_nonzero()) * 2 * 256, 2 * int(model[2].weight.count_nonzero()) * 2 * 64]
    assert [round(row.gflops * row.ms * 1e6) for row in convs] == counts
    assert torch.allclose(fast(x), model(x), atol=1e-4)


def test_the_ceilings_are_measured_and_remembered(tmp_path, monkeypatch):
    from rarefy.engine import ceiling as module
    from rarefy.engine.cache import TimingCache

    cache, rates = TimingCache(tmp_path), iter([{"gbps": 5.0, "fp32": 90.0}, {"gbps": 4.0, "fp32": 95.0}])
    monkeypatch.setattr(module, "_measured", lambda: next(rates))
    assert ceiling(cache) == Ceiling(5.0, {"fp32": 90.0})
    assert ceiling(cache) == Ceiling(5.0, {"fp32": 90.0})  # once a process
    module._best_seen.cache_clear()
    assert ceiling(cache) == Ceiling(5.0, {"fp32": 95.0})


def test_a_profile_is_empty_where_nothing_was_timed():
    assert dict(profile_of([], 1.0, "source", 1, LIMITS)) == {"whole": 1.0}
    assert isinstance(profile_of([], 1.0, "source", 1, LIMITS), Profile)
