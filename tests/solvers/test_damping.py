import math

import pytest
import torch

from rarefy.core.errors import DataError, SolverError
from rarefy.solvers.damping import damped_inverse


def test_it_is_the_factor_of_the_inverse() -> None:
    x = torch.randn(50, 12)
    gram = x.t() @ x
    found = damped_inverse(gram, 0.02, "fc")
    scaled = gram.double() / gram.double().diagonal().mean() + 0.02 * torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(found.upper.t() @ found.upper, torch.linalg.inv(scaled))
    assert torch.equal(found.upper, found.upper.triu())
    assert found.damping == 0.02


def test_inputs_that_never_fire_stand_alone() -> None:
    x = torch.randn(50, 6)
    x[:, 2] = 0.0
    found = damped_inverse(x.t() @ x, 0.01, "fc")
    assert found.dead.tolist() == [False, False, True, False, False, False]
    assert found.upper[2, 2] == pytest.approx(1 / math.sqrt(1.01))
    assert found.upper[2, 3:].abs().sum() == 0


def test_no_input_at_all_is_still_invertible() -> None:
    found = damped_inverse(torch.zeros(4, 4), 0.01, "fc")
    assert found.dead.all()
    assert found.upper.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gram_that_is_not_finite_is_the_datas_fault(bad: float) -> None:
    gram = torch.eye(3)
    gram[0, 1] = bad
    with pytest.raises(DataError, match="fc: the Gram matrix of its inputs is not finite"):
        damped_inverse(gram, 0.01, "fc")


def test_beyond_the_limit_it_raises() -> None:
    with pytest.raises(SolverError, match=r"\(asked: 0\.01\)"):
        damped_inverse(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), 0.01, "fc")
