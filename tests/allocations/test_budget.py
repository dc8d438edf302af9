import pytest

from rarefy.allocations.budget import spread
from rarefy.core.errors import SparsityError


def test_in_proportion_and_exact() -> None:
    chosen = spread({"a": 100, "b": 300}, {"a": 2.0, "b": 1.0}, 0.25)
    assert chosen == {"a": pytest.approx(0.4), "b": pytest.approx(0.2)}


def test_what_passes_one_is_spread_again() -> None:
    chosen = spread({"a": 10, "b": 10, "c": 80}, {"a": 100.0, "b": 10.0, "c": 1.0}, 0.5)
    assert chosen["a"] == chosen["b"] == 1.0
    assert chosen["c"] == pytest.approx(30 / 80)


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_the_ends(density: float) -> None:
    assert spread({"a": 10, "b": 20}, {"a": 3.0, "b": 1.0}, density) == {"a": density, "b": density}


def test_a_budget_that_nothing_may_take_is_an_error() -> None:
    with pytest.raises(SparsityError, match=r"the sites \['a', 'b'\] have no share"):
        spread({"a": 10, "b": 10}, {"a": 0.0, "b": 0.0}, 0.5)
