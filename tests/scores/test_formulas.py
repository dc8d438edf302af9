"""Scores beside what their formulas say, entry by entry in float64, from nothing of the library but the weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.calibration import collect, collect_whole
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Score
from rarefy.core.site import find_sites
from rarefy.scores.activation_norm import ActivationNorm
from rarefy.scores.fisher import Fisher
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.obd import OBD

Matrix = NDArray[np.float64]


def net() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Two layers with a hyperbolic tangent between; three batches of unlike sizes, none of the errors zero."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, [(torch.randn(n, 4), torch.randn(n, 3)) for n in (6, 2, 4)]


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared error, mean over samples."""
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(1).mean()


class ByHand:
    """The same net in numpy: forward, and the loss of some samples, with one weight changed where asked."""

    def __init__(self, model: nn.Sequential) -> None:
        self.values = [p.detach().double().numpy().copy() for p in model.parameters()]  # W1, b1, W2, b2

    def loss(self, x: Matrix, y: Matrix) -> float:
        w1, b1, w2, b2 = self.values
        out = np.tanh(x @ w1.T + b1) @ w2.T + b2
        return float(0.5 * np.sum((out - y) ** 2) / len(x))

    def moved(self, layer: int, i: int, j: int, by: float, x: Matrix, y: Matrix) -> float:
        weight = self.values[2 * layer]
        kept = weight[i, j]
        weight[i, j] = kept + by
        value = self.loss(x, y)
        weight[i, j] = kept
        return value


def entry_by_entry(by_hand: ByHand, layer: int, of: Callable[[int, int], float]) -> Matrix:
    weight = by_hand.values[2 * layer]
    found = np.empty_like(weight)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            found[i, j] = of(i, j)
    return found


def scores_of(score: Score) -> list[Matrix]:
    model, batches = net()
    sites = find_sites(model)[0]
    whole = any(need.of_the_model for need in score.needs)
    if whole:
        seen = collect_whole(model, sites, batches, squared, score.needs)
    else:
        seen = {n: dict(e) for n, e in collect(model, sites, [x for x, _ in batches], score.needs).items()}
    return [score(s.read(), Evidence(s.name, seen.get(s.name, {}))).double().numpy() for s in sites]


def fisher_by_formula(score: Score) -> None:
    """w^2 / 2 times the mean over the 12 samples of the square of a central difference of each one's loss."""
    model, batches = net()
    by_hand, step = ByHand(model), 1e-5
    x, y = (torch.cat([batch[k] for batch in batches]).double().numpy() for k in (0, 1))
    for layer, found in enumerate(scores_of(score)):

        def of(i: int, j: int, layer: int = layer) -> float:
            total = 0.0
            for t in range(len(x)):
                one = (x[t : t + 1], y[t : t + 1])
                up, down = (by_hand.moved(layer, i, j, by, *one) for by in (step, -step))
                total += ((up - down) / (2 * step)) ** 2
            return 0.5 * by_hand.values[2 * layer][i, j] ** 2 * total / len(x)

        np.testing.assert_allclose(found, entry_by_entry(by_hand, layer, of), rtol=1e-3, atol=1e-7)


def activation_norm_by_formula(score: Score) -> None:
    """The square root of the sum of squares of what comes in, token by token."""
    model, batches = net()
    w1, b1, *_ = ByHand(model).values
    x = torch.cat([x for x, _ in batches]).double().numpy()
    for found, entering in zip(scores_of(score), (x, np.tanh(x @ w1.T + b1)), strict=True):
        wanted = np.empty_like(found)
        for i in range(wanted.shape[0]):
            for j in range(wanted.shape[1]):
                wanted[i, j] = sum(float(row[j]) ** 2 for row in entering) ** 0.5
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("check", "score"), [(fisher_by_formula, Fisher()), (activation_norm_by_formula, ActivationNorm())]
)
def test_by_formula(check: Callable[[Score], None], score: Score) -> None:
    assert_beats_impostor(check, score, Magnitude())


def obd_by_formula(score: Score) -> None:
    """w^2 / 2 times a second difference of the loss, mean over batches.

    The library estimates the Hessian's diagonal by products with random signs, of which it takes few: what is compared
    is the mean over seeds, of which each has draws of its own, within five of its standard errors.
    """
    model, batches = net()
    by_hand, step = ByHand(model), 1e-3
    sites = find_sites(model)[0]
    draws: list[list[Matrix]] = [[], []]
    for seed in range(60):
        seen = collect_whole(model, sites, batches, squared, score.needs, seed)
        for site, kept in zip(sites, draws, strict=True):
            kept.append(score(site.read(), Evidence(site.name, seen.get(site.name, {}))).double().numpy())
    parts = [tuple(t.double().numpy() for t in batch) for batch in batches]
    for layer, drawn in enumerate(draws):

        def of(i: int, j: int, layer: int = layer) -> float:
            total = 0.0
            for x, y in parts:
                up, middle, down = (by_hand.moved(layer, i, j, by, x, y) for by in (step, 0.0, -step))
                total += (up - 2 * middle + down) / step**2
            return 0.5 * by_hand.values[2 * layer][i, j] ** 2 * total / len(parts)

        wanted, error = entry_by_entry(by_hand, layer, of), np.std(drawn, axis=0) / len(drawn) ** 0.5
        assert (np.abs(np.mean(drawn, axis=0) - wanted) <= 5 * error + 1e-4 * np.abs(wanted).max()).all()
        assert error.max() < 0.2 * np.abs(wanted).max()  # or anything would pass


def test_obd() -> None:
    assert_beats_impostor(obd_by_formula, OBD(), Magnitude())
