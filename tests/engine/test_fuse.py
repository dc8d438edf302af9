"""What the rewriting of a captured graph does and does not touch."""

import pytest
import torch
from torch import nn

from rarefy.core.site import find_sites
from rarefy.engine.capture import capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.plan import LayerPlan
from rarefy.ops import pack


def planned(model: nn.Module) -> dict[str, LayerPlan]:
    return {s.name: LayerPlan(s, ((64, pack(s.parameter.detach())),)) for s in find_sites(model)[0]}


def operations(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.ReLU(), "relu"),
        (nn.SiLU(), "silu"),
    ],
)
def test_a_following_activation_is_computed_by_the_kernel(activation, name) -> None:
    model = nn.Sequential(nn.Linear(24, 40), activation, nn.Linear(40, 8)).eval()
    x = torch.randn(6, 24)
    graph = capture(model, ((x,), {}))
    plans = planned(model)
    run, done = rewrite(graph, plans, dict.fromkeys(plans, 6))
    assert done == ["0", "2"]
    nodes = [n for n in graph.graph.nodes if "packed_linear" in str(n.target)]
    assert [n.args[3] for n in nodes] == [name, "none"]
    assert not any(name.split("_")[0] in op for op in operations(graph) if "packed" not in op)
    torch.testing.assert_close(run(x), model(x), rtol=1e-5, atol=1e-5)


def test_an_activation_beside_another_user_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return torch.relu(y) + y

    model = Both().eval()
    x = torch.randn(5, 16)
    graph = capture(model, ((x,), {}))
    plans = planned(model)
    run, _ = rewrite(graph, plans, {"a": 5})
    assert any("relu" in op for op in operations(graph))
    torch.testing.assert_close(run(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_layer_without_a_plan_stays_a_linear_node() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False)).eval()
    x = torch.randn(3, 8)
    graph = capture(model, ((x,), {}))
    plans = {k: v for k, v in planned(model).items() if k == "1"}
    run, done = rewrite(graph, plans, {"1": 3})
    assert done == ["1"]
    assert sum("linear" in op and "packed" not in op for op in operations(graph)) == 1
    torch.testing.assert_close(run(x), model(x), rtol=1e-5, atol=1e-5)


def test_dropout_of_evaluation_mode_is_gone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    graph = capture(model, ((torch.randn(3, 8),), {}))
    rewrite(graph, {}, {})
    assert not any("dropout" in op for op in operations(graph))


class Summed(nn.Module):
    """A sum over memory of its own and, for `read`, one over memory that is read again."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.a, self.read = nn.Linear(16, 16), read

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = self.a(x)
        other = z.view(-1) if self.read else None
        z += y
        return z * 2 if other is None else z * other.view(z.shape)


@pytest.mark.parametrize("read", [False, True])
def test_a_sum_in_place_is_an_ordinary_one_where_nothing_else_reads_the_memory(read) -> None:
    model, x, y = Summed(read).eval(), torch.randn(6, 16), torch.randn(6, 16)
    graph = capture(model, ((x, y), {}))
    run, _ = rewrite(graph, {}, {})
    kept = [op for op in operations(run) if "add" in op]
    assert kept == (["aten.add_.Tensor"] if read else ["aten.add.Tensor"])
    given = y.clone()
    torch.testing.assert_close(run(x, y), model(x, y), rtol=1e-5, atol=1e-5)
    assert torch.equal(y, given)
