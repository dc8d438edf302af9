import pytest

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Schedule
from rarefy.schedules.constant import Constant
from rarefy.schedules.cosine import Cosine


def half_a_cosine(schedule: Schedule) -> None:
    by_hand = {0: 0.3, 25: 0.3 * 0.8535533906, 50: 0.15, 75: 0.3 * 0.1464466094, 100: 0.0, 150: 0.0}
    for step, value in by_hand.items():
        assert schedule(step) == pytest.approx(value, abs=1e-9)


def test_curve() -> None:
    assert_beats_impostor(half_a_cosine, Cosine(0.3, 0.0, 100), Constant(0.3))


def test_end_has_to_be_positive() -> None:
    with pytest.raises(SparsityError, match="not positive"):
        Cosine(0.3, 0.0, 0)
