import math

import pytest
import torch
from torch import nn

from rarefy.calibration.batches import as_batches, call_model, token_mask
from rarefy.core.errors import DataError

GOOD = torch.randn(4, 3)


@pytest.mark.parametrize("data", [[GOOD], (GOOD, GOOD), iter([GOOD]), [{"x": GOOD}], [(GOOD, 3)]])
def test_any_iterable_of_batches_is_taken(data: object) -> None:
    assert len(as_batches(data, method="wanda", needed=True)) >= 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "needs calibration data; give data="),
        ([], "data is empty"),
        (iter([]), "data is empty"),
        (GOOD, r"data is one Tensor, not an iterable of batches.*data=\[batch\]"),
        ({"x": GOOD}, "data is one dict"),
        ("texts.txt", "data is one str"),
        (7, "data is one int"),
        ([GOOD, torch.empty(0, 3)], r"data\[1\] input has shape \(0, 3\) and no element"),
        ([torch.tensor([1.0, math.nan])], r"data\[0\] input holds NaN"),
        ([{"x": torch.tensor([math.inf])}], r"data\[0\] x holds NaN or infinity"),
        ([(GOOD, torch.tensor([-math.inf]))], r"data\[0\] argument 1 holds NaN or infinity"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(data: object, why: str) -> None:
    with pytest.raises(DataError, match=f"wanda: {why}"):
        as_batches(data, method="wanda", needed=True)


def test_no_data_is_fine_where_none_is_needed() -> None:
    assert as_batches(None, method="magnitude", needed=False) == []
    assert as_batches([], method="magnitude", needed=False) == []


@pytest.mark.parametrize("batch", [GOOD, (GOOD,), [GOOD], {"input": GOOD}])
def test_the_three_ways_to_call_a_model(batch: object) -> None:
    assert call_model(nn.Linear(3, 2), batch, 0).shape == (4, 2)


@pytest.mark.parametrize("batch", [torch.randn(4, 5), {"wrong": GOOD}, (GOOD, GOOD), "text"])
def test_a_batch_that_the_model_does_not_take_is_numbered(batch: object) -> None:
    with pytest.raises(DataError, match=r"data\[3\]: Linear does not take this batch"):
        call_model(nn.Linear(3, 2), batch, 3)


def test_padding_is_told_by_the_attention_mask() -> None:
    mask = torch.tensor([[1, 1, 0]])
    found = token_mask({"input_ids": mask, "attention_mask": mask})
    assert found is not None
    assert found.tolist() == [[True, True, False]]
    assert token_mask({"attention_mask": torch.ones(1, 1, 3, 3)}) is None
    assert token_mask(GOOD) is None
