"""The catalogued check: a planted knee is found, and a sweep of random masks has a clearly lower one."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.uniform import Uniform
from rarefy.analysis.essential_sparsity import emergence, essential_by_layer, essential_sparsity, knee
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Score
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.random import Random


def planted() -> tuple[nn.Sequential, Tensor, Tensor]:
    """60 % of the weights of each layer scaled by a thousandth; quality is agreement with its own labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 5))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                size = layer.weight.numel()
                values = torch.empty(size).uniform_(0.5, 1.0) * torch.randn(size).sign() * 0.3
                values[torch.randperm(size)[: int(0.6 * size)]] *= 1e-3
                layer.weight.copy_(values.view_as(layer.weight))
    x = torch.randn(500, 30)
    return model, x, model(x).argmax(1)


def evaluate(x: Tensor, y: Tensor):
    return lambda model: float((model(x).argmax(1) == y).double().mean())


def finds_sixty_percent(score: Score) -> None:
    model, x, y = planted()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = essential_sparsity(model, evaluate(x, y), score=score)
    assert found.at == pytest.approx(0.6, abs=0.03)
    assert abs(found.slopes[1]) > 3 * abs(found.slopes[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_essential_sparsity() -> None:
    assert_beats_impostor(finds_sixty_percent, Magnitude(), Random())


def test_a_random_sweep_has_a_clearly_lower_knee() -> None:
    model, x, y = planted()
    assert essential_sparsity(model, evaluate(x, y), score=Random()).at < 0.3


def test_uniform_and_per_layer_knees() -> None:
    model, x, y = planted()
    grid = [0.1 * i for i in range(1, 10)]
    assert essential_sparsity(model, evaluate(x, y), spread=Uniform(), sparsities=grid).at == pytest.approx(0.6)
    layers = essential_by_layer(model, evaluate(x, y), sparsities=grid)
    assert set(layers) == {"0", "2", "4"}
    assert all(found.at >= 0.6 - 1e-9 for found in layers.values())


def planted_by_groups(lines: bool) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Of every 16 inputs of a row ten weights scaled by a thousandth (`lines`), or as many of the layer anywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                values = (
                    torch.empty(layer.weight.shape).uniform_(0.5, 1.0) * torch.randn(layer.weight.shape).sign() * 0.3
                )
                grouped = values.view(-1, 16) if lines else values.view(1, -1)
                drawn = torch.rand(grouped.shape).argsort(1).argsort(1)
                grouped[drawn < grouped.shape[1] * 10 // 16] *= 1e-3
                layer.weight.copy_(values)
    x = torch.randn(500, 32)
    return model, x, model(x).argmax(1)


def finds_ten_of_sixteen(score: Score) -> None:
    model, x, y = planted_by_groups(lines=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = essential_sparsity(model, evaluate(x, y), group=16, score=score)
    assert [s for s, _ in found.points] == pytest.approx([i / 16 for i in range(16)])
    assert found.at == pytest.approx(10 / 16)
    assert abs(found.slopes[1]) > 3 * abs(found.slopes[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_sweep_of_n_of_16() -> None:
    assert_beats_impostor(finds_ten_of_sixteen, Magnitude(), Random())
    model, x, y = planted_by_groups(lines=True)
    assert essential_sparsity(model, evaluate(x, y), group=16, score=Random()).at < 0.3


def test_groups_cost_what_lies_unevenly() -> None:
    """The same share of small weights, but anywhere: N:M has to take large ones of some groups before."""
    model, x, y = planted_by_groups(lines=False)
    free = essential_sparsity(model, evaluate(x, y), sparsities=[i / 16 for i in range(1, 16)])
    assert free.at == pytest.approx(10 / 16)
    assert essential_sparsity(model, evaluate(x, y), group=16).at < free.at - 0.1


@pytest.mark.parametrize(
    "wrong", [{"group": 2}, {"group": 16, "sparsities": [0.5]}, {"group": 16, "spread": Uniform()}]
)
def test_a_sweep_that_contradicts_itself_is_refused(wrong: dict) -> None:
    model, x, y = planted()
    with pytest.raises(SparsityError, match="leave sparsities, spread and pattern out"):
        essential_sparsity(model, evaluate(x, y), **wrong)


def test_two_straight_pieces_are_read_off_exactly() -> None:
    points = [(s / 20, 1.0 - 0.1 * s / 20 - 2.0 * max(0.0, s / 20 - 0.5)) for s in range(20)]
    found = knee(points, tolerance=0.055)
    assert found.bend == pytest.approx(0.5)
    assert found.slopes == pytest.approx((-0.1, -2.1))
    assert found.at == pytest.approx(0.5)
    with pytest.raises(SparsityError, match="3 points"):
        knee(points[:3])


def test_emergence_sees_an_abrupt_change() -> None:
    torch.manual_seed(1)
    early, late = torch.randn(40, 40), torch.randn(40, 40)
    late[torch.rand(40, 40) < 0.7] *= 1e-4
    found = emergence([{"w": early}, {"w": early + 0.01}, {"w": late}, {"w": late * 1.01}], sparsity=0.7)
    near = [share for share, _ in found]
    assert max(b - a for a, b in itertools.pairwise(near)) > 0.6
    assert found[0][1] < 0.5
    assert found[3][1] == 1.0
    assert found[2][1] > 0.99
