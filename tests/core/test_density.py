import math

import numpy as np
import pytest

from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError


@pytest.mark.parametrize(("sparsity", "density"), [(0, 1.0), (0.0, 1.0), (0.7, 0.3), (0.999, 0.001)])
def test_density_is_one_minus_sparsity(sparsity: float, density: float) -> None:
    assert density_of(sparsity) == pytest.approx(density)


def test_numpy_numbers_are_numbers() -> None:
    assert density_of(np.float32(0.25)) == 0.75
    assert density_of(np.float64(0.25)) == 0.75


@pytest.mark.parametrize("sparsity", [1.0, 1, -0.1, 2.0, math.nan, math.inf, -math.inf, 100])
def test_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(SparsityError, match=r"outside \[0, 1\)"):
        density_of(sparsity)


@pytest.mark.parametrize("sparsity", ["0.5", None, True, [0.5]])
def test_no_number_is_refused(sparsity: object) -> None:
    with pytest.raises(SparsityError, match="not a number"):
        density_of(sparsity)  # type: ignore[arg-type]


def test_percent_is_suggested_as_a_fraction() -> None:
    with pytest.raises(SparsityError, match=r"did you mean 0\.7\?"):
        density_of(70)
