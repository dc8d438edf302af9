"""Wanda's score against its catalogued check, each time beside magnitude, which has to fail it."""

import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.protocols import Score
from rarefy.patterns.unstructured import Rowwise
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.magnitude import Magnitude


def mask_of(score: Score, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return Rowwise().select(score(weight, evidence_of(weight, x)), 0.5)


def unchanged_by_rescaling(score: Score) -> None:
    """Input feature j ten times larger and its column ten times smaller is the same layer: the mask is the same."""
    weight, x = torch.randn(16, 32), torch.randn(64, 32)
    scale = torch.ones(32)
    scale[::3] = 8.0  # a power of two: exact
    assert torch.equal(mask_of(score, weight, x), mask_of(score, weight / scale, x * scale))


def follows_the_formula(score: Score) -> None:
    weight, x = torch.randn(5, 7), torch.randn(20, 7)
    by_hand = [[abs(float(weight[i, j])) * float(x[:, j].norm()) for j in range(7)] for i in range(5)]
    torch.testing.assert_close(score(weight, evidence_of(weight, x)), torch.tensor(by_hand))


def halves_the_error_of_magnitude_with_outliers(score: Score) -> None:
    weight, x = torch.randn(64, 64), torch.randn(256, 64)
    x[:, [3, 17, 40]] *= 20.0
    error, plain = ((x @ (weight * ~mask_of(s, weight, x)).t()).square().sum().item() for s in (score, Magnitude()))
    assert error < 0.5 * plain


def test_rescaling_invariance() -> None:
    assert_beats_impostor(unchanged_by_rescaling, InputNorm(), Magnitude())


def test_formula() -> None:
    assert_beats_impostor(follows_the_formula, InputNorm(), Magnitude())


def test_outlier_features() -> None:
    assert_beats_impostor(halves_the_error_of_magnitude_with_outliers, InputNorm(), Magnitude())
