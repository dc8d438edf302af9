import pytest
import torch

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
    assert_beats_impostor(signals_keep_their_size, EdgeOfChaos(Random()), Scored(Random()))


def test_rho_by_hand() -> None:
    weight = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
    found = EdgeOfChaos(Magnitude())(weight, Layerwise(), 0.5, Evidence("fc"))
    rho = (15 / 13) ** 0.5
    torch.testing.assert_close(found.weight, torch.tensor([[3 * rho, 0.0], [2 * rho, 0.0]]))
    assert found.result["rho"] == pytest.approx(rho)
    to_two = EdgeOfChaos(Magnitude(), moment=2.0)(weight, Layerwise(), 0.5, Evidence("fc")).weight
    assert float(to_two.square().sum()) / 2 == pytest.approx(2.0)
