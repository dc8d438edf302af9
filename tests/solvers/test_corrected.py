"""The asymmetric target against its closed form, beside the solver that does without it."""

import numpy as np
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Solver
from rarefy.patterns.unstructured import Layerwise
from rarefy.solvers.corrected import Corrected, corrected
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.oracles import damped
from solvers.problems import correlated


def drifted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Evidence]:
    """A layer whose inputs have drifted from the dense ones, and evidence of the outputs that are wanted."""
    weight, dense = correlated(tokens=400)
    x = 0.8 * dense + 0.3 * dense.roll(1, dims=1)
    wanted = dense @ weight.t()
    evidence = evidence_of(weight, x)
    return weight, x, wanted, Evidence("fc", {**evidence.collected, Need.WANTED_CROSS: wanted.t() @ x}, 400)


def nearer_to_the_wanted_output(solver: Solver) -> None:
    weight, x, wanted, evidence = drifted()
    errors = [
        float((wanted - x @ s(weight, Layerwise(), 0.6, evidence).weight.t()).square().sum())
        for s in (solver, SparseGPT())
    ]
    assert errors[0] < 0.5 * errors[1]


def test_corrected() -> None:
    assert_beats_impostor(nearer_to_the_wanted_output, Corrected(SparseGPT()), SparseGPT())


def test_closed_form() -> None:
    weight, _, _, evidence = drifted()
    gram, cross = (evidence[n].double().numpy() for n in (Need.INPUT_GRAM, Need.WANTED_CROSS))
    ridge = 0.05 * np.mean(np.diag(gram))
    wanted = (cross + ridge * weight.double().numpy()) @ np.linalg.inv(damped(gram, 0.05))
    found, used = corrected(weight, evidence[Need.INPUT_GRAM], evidence[Need.WANTED_CROSS], 0.05, "fc")
    assert used == 0.05
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
