import pytest
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Need
from rarefy.core.protocols import Score
from rarefy.core.topk import keep_top
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.ria import RelativeImportance


def no_channel_vanishes(score: Score) -> None:
    """One output and one input of weights a hundred times smaller keep some of them at 70 % zeros."""
    weight, x = torch.randn(24, 24), torch.randn(64, 24)
    weight[5] *= 0.01
    weight[:, 9] *= 0.01
    kept = keep_top(score(weight, evidence_of(weight, x)).reshape(1, -1), 173).reshape(24, 24)
    assert kept[5].sum() > 0
    assert kept[:, 9].sum() > 0


def test_ria() -> None:
    assert_beats_impostor(no_channel_vanishes, RelativeImportance(), Magnitude())


def test_formula_entry_by_entry() -> None:
    weight, x = torch.randn(3, 4), torch.randn(10, 4)
    evidence = evidence_of(weight, x)
    found = RelativeImportance(power=0.5)(weight, evidence)
    for i in range(3):
        for j in range(4):
            size = abs(weight[i, j])
            relative = size / weight[:, j].abs().sum() + size / weight[i].abs().sum()
            assert found[i, j] == pytest.approx(float(relative * evidence[Need.INPUT_SQNORM][j] ** 0.25), rel=1e-5)


def test_a_negative_power_is_refused() -> None:
    with pytest.raises(SparsityError, match="power"):
        RelativeImportance(power=-1.0)
