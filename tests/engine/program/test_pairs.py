"""Layers that hand their outputs on become one step; where anything else reads those outputs they stay two."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.program.conftest import graphs, plans
from rarefy import ops

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")


class Alone(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(40, 96), nn.Linear(96, 40)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.mul_(torch.rand_like(layer.weight) < 0.3)

    def end(self, x, hidden, y):
        return (F.relu(y) + x,)

    def forward(self, x):
        hidden = F.gelu(self.first(x))
        return self.end(x, hidden, self.second(hidden))


class AnOutput(Alone):
    def end(self, x, hidden, y):
        return y, hidden


class AddedTo(Alone):
    def end(self, x, hidden, y):
        return (y + hidden[..., :40],)


class ReadByBoth(Alone):
    def __init__(self):
        super().__init__()
        self.third = nn.Linear(96, 40)

    def end(self, x, hidden, y):
        return (y * self.third(hidden),)


@pytest.mark.parametrize(("model", "steps"), [(Alone, 1), (AnOutput, 0), (AddedTo, 0), (ReadByBoth, 0)])
def test_pairs(model, steps):
    net = model().eval()
    graph, plain = graphs(net, (torch.randn(2, 64, 40),), plans(net))
    kinds = [kind for region in graph.modules() for kind in getattr(region, "kinds", ())]
    assert kinds.count("linear_pair") == steps
    assert kinds.count("linear") == len(plans(net)) - 2 * steps
    with torch.inference_mode():
        for batch, tokens in ((2, 64), (1, 1), (3, 33), (5, 128)):
            x = torch.randn(batch, tokens, 40)
            for got, want in zip(graph(x), plain(x), strict=True):
                torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_what_a_pair_has_to_do():
    net, x = Alone().eval(), torch.randn(2, 64, 40)
    packed = plans(net)
    graph, _ = graphs(net, (x,), packed)
    region = graph.program_0
    demand = region.demands[region.kinds.index("linear_pair")]
    weights = [packed[name].steps[0][1] for name in ("first", "second")]
    flops, moved = demand.at(region.signature.bind((x,)))
    assert demand.kernel == " + ".join(weight.kernel for weight in weights)
    assert flops == 2 * 128 * sum(weight.nnz for weight in weights)
    assert moved == sum(weight.nbytes for weight in weights) + 4 * 128 * (40 + 40)  # what is between them is not moved
