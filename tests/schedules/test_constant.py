from contracts.impostor import assert_beats_impostor
from rarefy.core.protocols import Schedule
from rarefy.schedules.constant import Constant
from rarefy.schedules.cosine import Cosine


def never_changes(schedule: Schedule) -> None:
    assert {schedule(step) for step in (0, 1, 50, 10**9)} == {0.3}


def test_constant() -> None:
    assert_beats_impostor(never_changes, Constant(0.3), Cosine(0.3, 0.0, 100))
