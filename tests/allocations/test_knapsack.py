"""The knapsack is the best choice there is, and never over its budget."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rarefy.allocations.given import Given
from rarefy.allocations.knapsack import Option, knapsack
from rarefy.core.errors import SparsityError
from rarefy.core.site import Site

numbers = st.integers(0, 40).map(float)
sites = st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), min_size=1, max_size=4)


def options_of(table: list[list[tuple[float, float]]]) -> dict[str, list[Option]]:
    return {str(i): [Option(0.5, cost, loss) for cost, loss in row] for i, row in enumerate(table)}


def brute(options: dict[str, list[Option]], budget: float) -> float | None:
    fitting = [
        sum(o.loss for o in choice)
        for choice in itertools.product(*options.values())
        if sum(o.cost for o in choice) <= budget
    ]
    return min(fitting, default=None)


@settings(max_examples=200, deadline=None)
@given(sites, st.integers(0, 120))
def test_it_is_as_good_as_trying_everything(table: list[list[tuple[float, float]]], budget: int) -> None:
    options = options_of(table)
    found, best = knapsack(options, float(budget)), brute(options, float(budget))
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        assert list(found) == list(options)
        assert sum(o.cost for o in found.values()) <= budget
        slack = 0.01 * budget  # costs are rounded up to steps: nothing that fits within a little less is missed
        tighter = brute(options, budget - slack)
        assert sum(o.loss for o in found.values()) <= (tighter if tighter is not None else float("inf"))


def test_a_budget_for_everything_loses_nothing() -> None:
    options = {name: [Option(0.1, 1.0, 5.0), Option(1.0, 2.0, 0.0)] for name in "abc"}
    found = knapsack(options, 6.0 + 1e-9)
    assert found is not None and {o.density for o in found.values()} == {1.0}
    assert knapsack(options, 2.9) is None


def test_the_site_that_loses_least_for_its_time_goes_first() -> None:
    options = {
        "cheap to prune": [Option(0.1, 1.0, 0.1), Option(1.0, 3.0, 0.0)],
        "dear to prune": [Option(0.1, 1.0, 9.0), Option(1.0, 3.0, 0.0)],
    }
    found = knapsack(options, 4.0)
    assert found is not None
    assert {name: o.density for name, o in found.items()} == {"cheap to prune": 0.1, "dear to prune": 1.0}


def test_given_densities_need_a_density_for_every_site() -> None:
    site = Site("x", (nn.Linear(2, 2),))
    assert Given({"x": 0.25})([site], 0.9, {}) == {"x": 0.25}
    with pytest.raises(SparsityError, match="no density for"):
        Given({})([site], 0.9, {})
