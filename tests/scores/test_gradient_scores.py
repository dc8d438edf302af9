"""Scores from derivatives of the loss, each on a net where magnitude is wrong and the answer is known."""

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.calibration import collect_whole
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Score
from rarefy.core.site import find_sites
from rarefy.scores.gradient import Gradient
from rarefy.scores.grasp import Grasp
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.movement import Movement
from rarefy.scores.snip import Snip


def scores_of(score: Score, model: nn.Module, batches: list, loss) -> Tensor:
    site = find_sites(model)[0][0]
    found = collect_whole(model, [site], batches, loss, score.needs)[site.name]
    return score(site.read(), Evidence(site.name, found))


def regression() -> tuple[nn.Linear, list[tuple[Tensor, Tensor]]]:
    """y = 2 x_0 - x_1; the model has weights (1.9, -0.9, 5) and only sees x_2 = 0.01 noise."""
    torch.manual_seed(3)
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.9, -0.5, 5.0]]))
    x = torch.randn(64, 3)
    x[:, 2] *= 1e-3
    y = 2.0 * x[:, :1] - x[:, 1:2]
    return model, [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def the_silent_input_matters_least(score: Score) -> None:
    model, batches = regression()
    found = scores_of(score, model, batches, squared)[0]
    assert found[2] < min(found[0], found[1])


@pytest.mark.parametrize("score", [Snip(), Gradient()])
def test_the_loss_is_seen(score: Score) -> None:
    assert_beats_impostor(the_silent_input_matters_least, score, Magnitude())


def test_snip_is_the_derivative_by_a_gate() -> None:
    model, batches = regression()
    gate = torch.ones(1, 3, requires_grad=True)
    for x, y in batches:
        (((x @ (model.weight.detach() * gate).t()) - y).square().mean() / len(batches)).backward()
    torch.testing.assert_close(scores_of(Snip(), model, batches, squared), gate.grad.abs(), rtol=1e-4, atol=1e-7)


def growing_weights_are_kept(score: Score) -> None:
    """-0.5 has to become -1: it moves away from zero and outranks one that shrinks, though it is smaller."""
    model, batches = regression()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -0.5, 0.0]]))
    found = scores_of(score, model, batches, squared)[0]
    assert found[1] > 0 > found[0]


def test_movement() -> None:
    assert_beats_impostor(growing_weights_are_kept, Movement(), Magnitude())


def test_movement_is_what_a_step_of_gradient_descent_does() -> None:
    model, batches = regression()
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    torch.stack([squared(model, b) for b in batches]).mean().backward()
    optimizer.step()
    moved = before.sign() * (model.weight.detach() - before) * before.abs() / 0.1
    with torch.no_grad():
        model.weight.copy_(before)
    torch.testing.assert_close(scores_of(Movement(), model, batches, squared), moved, rtol=1e-3, atol=1e-4)


def tells_the_change_of_the_gradient_norm(score: Score) -> None:
    """Shrinking one weight by a little changes |g|^2 by -2 * share * score: finite differences in float64."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    batches = [(torch.randn(8, 4).double(), torch.randn(8, 2).double()) for _ in range(3)]
    found = scores_of(score, model, batches, squared)
    weight, before, share = model[0].weight, model[0].weight.detach().clone(), 1e-5

    def norm() -> float:
        model.zero_grad()
        torch.stack([squared(model, b) for b in batches]).mean().backward()
        return float(weight.grad.square().sum())

    start = norm()
    for i, j in ((0, 0), (1, 3), (2, 1)):
        with torch.no_grad():
            weight[i, j] *= 1 - share
        fall = (start - norm()) / (2 * share)
        with torch.no_grad():
            weight.copy_(before)
        assert float(found[i, j]) == pytest.approx(fall, rel=2e-3, abs=1e-5)


def test_grasp() -> None:
    assert_beats_impostor(tells_the_change_of_the_gradient_norm, Grasp(), Magnitude())
