"""Every schedule: a finite number at each step, and no surprise after its end."""

import math

import pytest

from contracts.examples import all_of, make
from rarefy.core.registry import Entry

EVERY = pytest.mark.parametrize("entry", all_of("schedule"))


@EVERY
def test_finite_and_repeatable(entry: Entry) -> None:
    schedule = make(entry)
    values = [schedule(step) for step in range(40)]
    assert all(isinstance(v, float) and math.isfinite(v) for v in values)
    assert values == [make(entry)(step) for step in range(40)]


@EVERY
def test_stays_between_its_two_values_and_holds_at_the_end(entry: Entry) -> None:
    schedule = make(entry)
    values = [schedule(step) for step in range(40)]
    low, high = min(values[0], values[-1]), max(values[0], values[-1])
    assert all(low - 1e-12 <= v <= high + 1e-12 for v in values)
    assert schedule(10**9) == values[-1]
