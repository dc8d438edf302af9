"""Queries, keys and values as one layer: the same numbers, and only where an attention alone reads them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.program.conftest import encoder, inputs, plans, tensors
from rarefy import ops
from rarefy.engine import fuse
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.program import with_programs

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
LINEAR = torch.ops.rarefy.packed_linear.default


def rewritten(model, packed, kind="bert"):
    graph, _ = rewrite(capture(model, as_example(inputs(kind, 3, 10))), packed, dict.fromkeys(packed, 1))
    return graph


def layers(graph) -> int:
    return sum(node.target is LINEAR for node in graph.graph.nodes)


@pytest.mark.parametrize("stored", ["fp32", "int8"])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_one_layer_gives_what_three_give(kind, stored, monkeypatch):
    model = encoder(kind)
    packed = plans(model, stored, [inputs(kind, 4, 12)] if stored == "int8" else None)
    merged = rewritten(model, packed, kind)
    monkeypatch.setattr(fuse, "merge_same_input", lambda graph: 0)
    apart = rewritten(model, packed, kind)
    assert layers(apart) - layers(merged) == 4  # two of three in each of two blocks
    for native in (False, True):
        if native:
            assert with_programs(merged) == with_programs(apart) == 1
        for batch, tokens in ((3, 10), (1, 7), (5, 16)):
            call = inputs(kind, batch, tokens)
            with torch.inference_mode():
                got, want = tensors(merged(**call)), tensors(apart(**call))
            for a, b in zip(got, want, strict=True):
                # without a program attention is in float32 on both sides; floats may add up in another order
                assert torch.equal(a, b) if stored == "int8" else torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_layers_of_other_scales_or_with_other_readers_stay_apart():
    model = encoder("bert")
    packed = plans(model, "int8", [inputs("bert", 4, 12)])
    one = packed["encoder.layer.0.attention.self.query"]
    weight = one.steps[0][1]
    scale = weight.input_scale._replace(scale=weight.input_scale.scale * 2)
    other = ops.pack(weight.quantized, weight.kernel, input_scale=scale)
    packed["encoder.layer.0.attention.self.query"] = type(one)(one.site, ((one.steps[0][0], other),))
    assert layers(rewritten(model, packed)) == 13 - 1 - 2  # keys and values of the first block, all of the second


class Attends(nn.Module):
    """Attention whose values may be an output too."""

    def __init__(self, shown: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.shown = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 48), shown

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = (layer(x).view(*x.shape[:2], 3, 16).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return (out, v * 2.0) if self.shown else (out,)


@pytest.mark.parametrize("shown", [False, True])
def test_what_others_read_too_stays_apart(shown):
    torch.manual_seed(0)
    model = Attends(shown).eval()
    packed = plans(model)
    graph, _ = rewrite(capture(model, ((torch.randn(2, 9, 48),), {})), packed, dict.fromkeys(packed, 1))
    assert layers(graph) == (2 if shown else 1)
    x = torch.randn(3, 5, 48)
    with torch.inference_mode():
        for got, want in zip(graph(x), model(x), strict=True):
            assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)
