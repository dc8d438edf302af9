import pytest
import torch
from torch import nn

from rarefy.calibration.inputs import input_rows
from rarefy.core.site import find_sites

CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, (3, 2), stride=2, padding=1),
    nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(4, 6, 3, padding=2, padding_mode="circular"),
    nn.Conv2d(4, 8, 3, groups=2),
    nn.Conv2d(4, 4, 3, groups=4, padding=1),
    nn.Conv2d(4, 6, 1),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_rows_times_weight_is_the_convolution(conv: nn.Conv2d) -> None:
    """What every collector rests on: rows @ W^T + b is what the layer gives, group by group."""
    x = torch.randn(2, 4, 9, 8)
    rows = input_rows(conv, x, None)
    weight = find_sites(conv)[0][0].read().reshape(conv.groups, -1, rows.shape[-1])
    out = torch.einsum("tgn,gon->tgo", rows, weight).flatten(1) + conv.bias
    wanted = conv(x).movedim(1, -1).reshape(-1, conv.out_channels)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_an_image_without_a_batch_axis() -> None:
    assert input_rows(nn.Conv2d(4, 6, 3), torch.randn(4, 9, 8), None).shape == (42, 1, 36)


def test_linear_rows_are_all_leading_axes() -> None:
    x = torch.randn(2, 5, 3)
    assert torch.equal(input_rows(nn.Linear(3, 4), x, None)[:, 0], x.reshape(-1, 3))
    assert input_rows(nn.Linear(3, 4), torch.randn(3), None).shape == (1, 1, 3)


def test_padding_is_left_out_where_the_axes_fit() -> None:
    x = torch.randn(2, 5, 3)
    real = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    assert torch.equal(input_rows(nn.Linear(3, 4), x, real)[:, 0], x[real])
    assert input_rows(nn.Linear(3, 4), torch.randn(2, 3), real).shape == (2, 1, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    assert input_rows(nn.Linear(3, 4), torch.randn(2, 3).to(dtype), None).dtype is torch.float32
