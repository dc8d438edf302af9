"""Gram matrices with huge tokens in them, beside sums in float64 and beside sums in float32, which have to fail."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.calibration.accumulator import Accumulators
from rarefy.calibration.collectors import collected, parted
from rarefy.core.evidence import Evidence, Need
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.reconstruction import Reconstruction
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.problems import correlated

Gram = Callable[[Tensor], Tensor]
EPS = torch.finfo(torch.float32).eps


def ours(x: Tensor) -> Tensor:
    return collected(Need.INPUT_GRAM, x[:, None])[0]


def in_float32(x: Tensor) -> Tensor:
    return x.t() @ x


def with_huge(times: float, where: tuple[int, ...] = (3,), n: int = 64) -> tuple[Tensor, Tensor]:
    """A weight and a portion of 2048 tokens, some of which are `times` as large as they were."""
    weight, x = correlated(out=32, n=n, tokens=2048, seed=1)
    x[list(where)] *= times
    return weight, x


@pytest.mark.parametrize("times", [1e3, 1e4, 1e6])
@pytest.mark.parametrize("where", [(3,), (0, 700, 2047), tuple(range(0, 2048, 64))], ids=len)
def test_what_ordinary_tokens_add_is_not_drowned(times: float, where: tuple[int, ...]) -> None:
    """All there is beyond the sums in float64 is the rounding of the result, and as much for the ordinary tokens."""
    _, x = with_huge(times, where)
    exact = x.double().t() @ x.double()
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[list(where)] = False
    ordinary = x[rest].double().square().sum(0).max()

    def rounded_once(gram: Gram) -> None:
        assert ((gram(x).double() - exact).abs() <= 0.51 * EPS * exact.abs() + 8 * EPS * ordinary).all()

    assert_beats_impostor(rounded_once, ours, in_float32)


@pytest.mark.parametrize("solver", [SparseGPT(damping=1e-6), Reconstruction(Magnitude(), 1e-6, 400)], ids=str)
def test_solvers_see_the_ordinary_tokens(solver) -> None:
    """One token 10,000 times as large: what is solved with the Gram is as good for the others as with float64 sums.

    With float32 sums the error on the others was 1.9 and 2.8 times as large. The damping is small here because it is a
    share of the mean diagonal, which the huge token makes: at the default of 1 % no Gram could show the others.
    """
    weight, x = with_huge(1e4)
    others = torch.cat([x[:3], x[4:]]).double()

    def error(gram: Tensor) -> float:
        found = solver(weight, Layerwise(), 0.5, Evidence("fc", {Need.INPUT_GRAM: gram}, len(x))).weight
        return float(((weight - found).double() @ others.t()).square().sum())

    exact = error((x.double().t() @ x.double()).float())

    def as_good(gram: Gram) -> None:
        assert error(gram(x)) < 1.2 * exact

    assert_beats_impostor(as_good, ours, in_float32)
    plain = weight - Scored(Magnitude())(weight, Layerwise(), 0.5, evidence_of(weight, x)).weight
    assert exact < 0.3 * float((plain.double() @ others.t()).square().sum())


def test_wanted_outputs_are_summed_as_the_inputs_are() -> None:
    weight, x = with_huge(1e4)
    wanted = (x @ weight.t())[:, None]
    exact = wanted[:, 0].double().t() @ x.double()
    sums = Accumulators(["fc"], [Need.INPUT_GRAM, Need.WANTED_CROSS])
    sums.add("fc", x[:, None], wanted)
    found = sums.take("fc", 1)[Need.WANTED_CROSS].double()
    ordinary = x[4:].double().norm() * wanted[4:].double().norm()
    slack = 0.51 * EPS * exact.abs() + 8 * EPS * ordinary
    assert ((found - exact).abs() <= slack).all()
    assert (((wanted[:, 0].t() @ x).double() - exact).abs() > slack).any()


def test_without_huge_tokens_the_rows_are_what_they_were() -> None:
    rows, others = torch.randn(2048, 1, 16), torch.randn(2048, 3)
    found = list(parted(rows, others))
    assert len(found) == 1 and found[0][0] is rows and found[0][1] is others
    assert len(list(parted(0 * rows))) == len(list(parted(rows[:0]))) == 1


def test_rows_of_zeros_do_not_make_the_others_huge() -> None:
    """Three quarters are zeros, as the patches of an image's border are; one of the rest is huge."""
    rows = torch.randn(400, 1, 16)
    rows[100:] = 0.0
    assert len(list(parted(rows))) == 1
    rows[7] *= 1e5
    huge, rest = (part[0] for part in parted(rows))
    assert huge.dtype is torch.float64 and len(huge) == 1 and len(rest) == 399
    assert torch.equal(huge[0].float(), rows[7])


def test_groups_of_a_convolution() -> None:
    rows = torch.randn(500, 3, 8)
    rows[11] *= 1e4
    found = collected(Need.INPUT_GRAM, rows).double()
    by_group = rows.double().transpose(0, 1)
    exact = by_group.transpose(1, 2) @ by_group
    assert ((found - exact).abs() <= 0.51 * EPS * exact.abs() + 8 * EPS * 500 * 4).all()
