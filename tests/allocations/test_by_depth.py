"""Balanced and pyramidal: equal counts, and powers of one base."""

import pytest
from torch import nn

from rarefy.allocations.balanced import Balanced
from rarefy.allocations.pyramidal import Pyramidal, base_of
from rarefy.core.site import find_sites

SITES = find_sites(nn.Sequential(nn.Linear(4, 4), nn.Linear(16, 16), nn.Linear(16, 32)))[0]
SIZES = {"0": 16, "1": 256, "2": 512}


def test_every_layer_keeps_as_many_and_small_ones_all() -> None:
    chosen = Balanced()(SITES, 0.25, {})
    kept = {name: SIZES[name] * density for name, density in chosen.items()}
    assert kept == {"0": 16, "1": pytest.approx(90.0), "2": pytest.approx(90.0)}


@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
def test_densities_are_powers_of_one_base_and_meet_the_budget(density: float) -> None:
    chosen = Pyramidal()(SITES, density, {})
    base = chosen["0"]
    assert chosen == {"0": base, "1": pytest.approx(base**2), "2": pytest.approx(base**3)}
    assert sum(SIZES[name] * d for name, d in chosen.items()) == pytest.approx(density * 784)
    assert base_of([100, 100], 0.375) == pytest.approx(0.5)
    assert base_of([1, 1], 1.0) == pytest.approx(1.0)
