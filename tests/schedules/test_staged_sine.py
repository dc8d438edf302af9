"""Half a sine wave a stage, by hand; flat at both ends of each."""

import math

import pytest

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Schedule
from rarefy.schedules.constant import Constant
from rarefy.schedules.staged_sine import StagedSine

STAGES = StagedSine(ends=(4, 10, 30), values=(0.1, 0.3, 1.0))


def half_waves(schedule: Schedule) -> None:
    for step in range(40):
        if step <= 4:
            wanted = 0.1
        elif step <= 10:
            wanted = 0.2 - 0.1 * math.cos(math.pi * (step - 4) / 6)
        else:
            wanted = 0.65 - 0.35 * math.cos(math.pi * (min(step, 30) - 10) / 20)
        assert schedule(step) == pytest.approx(wanted)


@pytest.mark.parametrize("impostor", [Constant(0.1), StagedSine((4, 10, 31), (0.1, 0.3, 1.0))])
def test_curve(impostor: Schedule) -> None:
    assert_beats_impostor(half_waves, STAGES, impostor)


@pytest.mark.parametrize(
    ("ends", "values", "why"),
    [
        ((), (), "0 ends for 0 values"),
        ((1, 2), (0.1,), "2 ends for 1 values"),
        ((-1, 2), (0.1, 0.2), "give one end a stage"),
        ((5, 5), (0.1, 0.2), "have to rise"),
        ((5, 6), (0.3, 0.2), "not to fall"),
    ],
)
def test_stages_that_make_no_sense(ends: tuple[int, ...], values: tuple[float, ...], why: str) -> None:
    with pytest.raises(SparsityError, match=why):
        StagedSine(ends, values)
    assert StagedSine((0, 1), (0.2, 0.2))(5) == 0.2
