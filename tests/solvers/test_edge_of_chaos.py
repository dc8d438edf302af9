import pytest
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Solver
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.random import Random
from rarefy.solvers.edge_of_chaos import EdgeOfChaos
from rarefy.solvers.scored import Scored


def signals_keep_their_size(solver: Solver) -> None:
    """Thirty ReLU layers at the edge of chaos, 90 % of each pruned at random: within 3x of what comes in."""
    torch.manual_seed(0)
    x = torch.randn(64, 300)
    start = float(x.square().mean())
    for layer in range(30):
        weight = torch.randn(300, 300) * (2 / 300) ** 0.5
        kept = solver(weight, Layerwise(), 0.1, Evidence(f"fc{layer}")).weight
        x = torch.relu(x @ kept.t())
    assert start / 3 < 2 * float(x.square().mean()) < start * 3


def test_edge_of_chaos() -> None:
    assert_beats_impostor(signals_keep_their_size, EdgeOfChaos(Random(), inputs=False), Scored(Random()))


def test_rho_by_hand() -> None:
    weight = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
    found = EdgeOfChaos(Magnitude(), inputs=False)(weight, Layerwise(), 0.5, Evidence("fc"))
    rho = (15 / 13) ** 0.5
    torch.testing.assert_close(found.weight, torch.tensor([[3 * rho, 0.0], [2 * rho, 0.0]]))
    assert found.result["rho"] == pytest.approx(rho)
    to_two = EdgeOfChaos(Magnitude(), moment=2.0, inputs=False)(weight, Layerwise(), 0.5, Evidence("fc")).weight
    assert float(to_two.square().sum()) / 2 == pytest.approx(2.0)


def test_on_inputs_the_outputs_keep_their_second_moment() -> None:
    weight, x = torch.randn(30, 40), torch.randn(100, 40).abs()
    for moment in (None, 2.0):
        found = EdgeOfChaos(Magnitude(), moment=moment, inputs=True)(weight, Layerwise(), 0.2, evidence_of(weight, x))
        wanted = (x @ weight.t()).square().mean() if moment is None else 2.0 * x.square().mean()
        torch.testing.assert_close((x @ found.weight.t()).square().mean(), wanted, rtol=1e-4, atol=1e-5)
