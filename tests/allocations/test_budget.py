import pytest

from rarefy.allocations.budget import spread, spread_above
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


def test_sites_without_a_share_get_nothing_where_the_others_take_all() -> None:
    assert spread({"a": 10, "b": 30}, {"a": 1.0, "b": 0.0}, 0.25) == {"a": 1.0, "b": 0.0}


def test_every_site_has_the_least_and_the_rest_goes_by_share() -> None:
    chosen = spread_above({"a": 100, "b": 100}, {"a": 3.0, "b": 1.0}, 0.4, 0.2)
    assert chosen == {"a": pytest.approx(0.5), "b": pytest.approx(0.3)}
    assert spread_above({"a": 100, "b": 50}, {"a": 3.0, "b": 1.0}, 0.2, 0.2) == {"a": 0.2, "b": 0.2}
    assert spread_above({"a": 100, "b": 50}, {"a": 3.0, "b": 1.0}, 0.7, 1.0) == {"a": 1.0, "b": 1.0}


def test_sites_without_a_share_take_what_those_with_one_cannot() -> None:
    chosen = spread_above({"a": 10, "b": 90}, {"a": 1.0, "b": 0.0}, 0.6, 0.2)
    assert chosen["a"] == 1.0
    assert chosen["b"] == pytest.approx((60 - 10) / 90)
