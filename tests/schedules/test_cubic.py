import pytest

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Schedule
from rarefy.schedules.constant import Constant
from rarefy.schedules.cosine import Cosine
from rarefy.schedules.cubic import Cubic


def the_gradual_pruning_curve(schedule: Schedule) -> None:
    """Sparsity of Zhu and Gupta eq. 1 by hand: s_f + (s_i - s_f)(1 - (t - t0) / (n dt))^3, density = 1 - s."""
    for t in range(0, 130, 7):
        progress = min(1.0, max(0.0, (t - 10) / 100))
        sparsity = 0.9 + (0.1 - 0.9) * (1 - progress) ** 3
        assert schedule(t) == pytest.approx(1 - sparsity)


@pytest.mark.parametrize("impostor", [Constant(0.9), Cosine(0.9, 0.1, 110)])
def test_curve(impostor: Schedule) -> None:
    assert_beats_impostor(the_gradual_pruning_curve, Cubic(0.9, 0.1, 10, 110), impostor)


def test_begin_has_to_come_before_end() -> None:
    with pytest.raises(SparsityError, match="give begin < end"):
        Cubic(1.0, 0.1, 10, 10)
