import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.protocols import Solver
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.problems import correlated


def kept_weights_do_not_move(solver: Solver) -> None:
    weight, x = correlated()
    solution = solver(weight, Layerwise(), 0.5, evidence_of(weight, x))
    assert torch.equal(solution.weight, torch.where(solution.mask, weight, 0.0))


def test_scored() -> None:
    assert_beats_impostor(kept_weights_do_not_move, Scored(Magnitude()), SparseGPT())
