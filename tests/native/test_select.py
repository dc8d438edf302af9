"""What the native step keeps of its inputs, against the selectors in torch."""

import pytest
import torch
from oracle import normal

from rarefy import ops
from rarefy.core.errors import DTypeError, ShapeError
from rarefy.ops import native
from rarefy.ops.select import Select, select_args, select_inputs
from rarefy.selectors import Threshold, TopK
from rarefy.selectors.block_top_k import BlockTopK

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
MODULE = native.module()
ISAS = native.LEVELS[: native.LEVELS.index(MODULE.isa()) + 1] if MODULE is not None else ()


@pytest.fixture(params=ISAS, autouse=True)
def isa(request, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", request.param)
    assert native.module().isa() == request.param
    return request.param


@pytest.mark.parametrize("width", [1, 7, 64, 333])
@pytest.mark.parametrize("weighted", [False, True])
def test_thresholds(width, weighted):
    x, weight = normal(5, width), normal(width, seed=3).abs() if weighted else None
    x[:, ::3] = 0
    for threshold in (torch.tensor(-1.0), torch.tensor(0.0), torch.tensor(0.6), normal(width, seed=4).abs()):
        want = x * Threshold(threshold, weight).mask(x)
        assert torch.equal(select_inputs(x, Select(width, threshold, weight)), want)


@pytest.mark.parametrize("width", [1, 7, 64, 333])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_largest_of_each_token_with_ties_to_the_lower_index(width, weighted):
    x, weight = normal(6, width), normal(width, seed=3).abs() if weighted else None
    x[1], x[2], x[3] = 1.0, 0.0, x[3].round()
    for keep in {0, 1, width // 3, width - 1, width}:
        want = x * TopK(keep, weight).mask(x)
        assert torch.equal(select_inputs(x, Select(width, weight=weight, keep=keep)), want)


@pytest.mark.parametrize(("n", "m"), [(0, 1), (1, 1), (1, 4), (3, 4), (4, 4), (5, 32), (0, 16)])
def test_the_largest_of_every_block_with_ties_to_the_lower_index(n, m):
    x = normal(6, 3 * m)
    x[1], x[2], x[3] = 1.0, 0.0, x[3].round()
    assert torch.equal(select_inputs(x, Select(3 * m, keep=n, block=m)), x * BlockTopK(n, m).mask(x))


def test_what_is_positive():
    x = normal(3, 37)
    x[:, ::5] = 0
    assert torch.equal(select_inputs(x, Select(37, positive=True)), x.relu())


def test_what_is_no_number_is_kept():
    x = torch.tensor([[0.1, float("nan"), 2.0, -3.0]])
    for by in (Select(4, torch.tensor(1.0)), Select(4, keep=2), Select(4, keep=1, block=2)):
        got = select_inputs(x, by)
        assert got[0, 1].isnan() and got[0, 3] == -3.0 and got[0, 0] == 0.0
    assert select_inputs(x, Select(4, positive=True))[0, 1].isnan()


def test_a_vector_of_another_width_is_refused():
    with pytest.raises(ShapeError, match="shape"):
        Select(4, torch.zeros(5))
    with pytest.raises(ShapeError, match="and not both"):
        Select(4, torch.zeros(()), keep=2)
    with pytest.raises(ShapeError, match="and not both"):
        Select(4, positive=True, keep=2)
    for wrong in ({"keep": 1, "block": 3}, {"keep": 3, "block": 2}, {"positive": True, "block": 2}):
        with pytest.raises(ShapeError, match="every"):
            Select(4, **wrong)


def test_ways_to_select_that_make_no_sense():
    one = torch.zeros(())
    for none_or_two in ({}, {"slot": 0, "positive": True}, {"slot": 0, "keep": 1}, {"threshold": one, "slot": 1}):
        with pytest.raises(ShapeError, match="and not both"):
            Select(4, **none_or_two)
    for wrong in ({"keep": -1, "block": 2}, {"keep": 0, "block": 0}, {"keep": 0, "block": -2}, {"slot": 1, "block": 2}):
        with pytest.raises(ShapeError, match="of every"):
            Select(4, **wrong)
    assert Select(4, keep=0, block=1).block == 1 and Select(4, keep=4, block=4).keep == 4
    strided = torch.zeros(8)[::2]
    for name, wrong in (("threshold", strided), ("threshold", torch.zeros(1, 4)), ("weight", strided), ("weight", one)):
        with pytest.raises(ShapeError, match=rf"{name} has shape .*, it must be \(4,\), contiguous"):
            Select(4, **{"threshold": one, name: wrong})
    for name in ("threshold", "weight"):
        with pytest.raises(DTypeError, match=name):
            Select(4, **{"threshold": one, name: torch.zeros(4).double()})


def test_what_native_code_is_told():
    each, weight = torch.zeros(4), torch.ones(4)
    all_of, at = torch.zeros(()), weight.data_ptr()
    assert select_args(None) == (0, 0, 0, 0, 0, 0, 0)
    assert select_args(Select(4, all_of)) == (1, all_of.data_ptr(), 0, 0, 0, 0, 0)
    assert select_args(Select(4, each, weight)) == (1, each.data_ptr(), 1, at, 0, 0, 0)
    assert select_args(Select(4, weight=weight, keep=3)) == (2, 0, 0, at, 3, 0, 0)
    assert select_args(Select(4, keep=5)) == (2, 0, 0, 0, 4, 0, 0)
    assert select_args(Select(4, positive=True)) == (3, 0, 0, 0, 0, 0, 0)
    assert select_args(Select(4, weight=weight, keep=1, block=2)) == (4, 0, 0, at, 1, 2, 0)
    assert select_args(Select(4, slot=7)) == (5, 0, 0, 0, 0, 0, 7)


def test_inputs_of_any_shape_and_those_that_are_refused():
    by, x = Select(4, torch.tensor(0.5)), normal(2, 3, 8)[..., ::2]
    assert torch.equal(select_inputs(x, by), x * (x.abs() > 0.5))
    with pytest.raises(ShapeError, match="select_inputs"):
        select_inputs(x[..., :3], by)
    with pytest.raises(DTypeError, match="select_inputs"):
        select_inputs(x.double(), by)
    with pytest.raises(ShapeError, match="of which there is none here"):
        select_inputs(x, Select(4, slot=0))
