import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Score
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.random import Random


def keeps_the_largest(score: Score) -> None:
    weight = torch.randn(16, 32)
    kept = Layerwise().select(score(weight, Evidence("fc")), 0.25)
    assert weight[kept].abs().min() >= weight[~kept].abs().max()


def test_the_largest_weights_are_kept() -> None:
    assert_beats_impostor(keeps_the_largest, Magnitude(), Random())
