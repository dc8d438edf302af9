"""Static scales of 8-bit inputs."""

import pytest
import torch
from torch import nn

from rarefy.core.errors import DataError
from rarefy.core.site import find_sites
from rarefy.engine.input_scales import best_scale, input_scales, rounded, scale_of


def test_zero_is_exact_and_the_ends_are_within_half_a_step():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        scale = scale_of(low, high)
        x = torch.tensor([low, 0.0, high])
        error = (rounded(x, scale) - x).abs()
        assert float(error[1]) == 0.0
        assert bool((error <= scale[0] * 0.5001 + 1e-30).all())
        assert 0 <= scale[1] <= 255


def test_extremes_that_hardly_any_value_reaches_are_cut():
    x = torch.randn(1 << 15, generator=torch.Generator().manual_seed(0))
    whole, best = scale_of(-20.0, 20.0), best_scale(x, -20.0, 20.0)
    error = [float((rounded(x, s) - x).square().mean()) for s in (whole, best)]
    assert error[1] < error[0] / 10


def test_even_values_keep_their_whole_range():
    x = torch.rand(1 << 14, generator=torch.Generator().manual_seed(0))
    assert best_scale(x, 0.0, 1.0)[0] == pytest.approx(scale_of(0.0, 1.0)[0], rel=1e-2)


def test_every_layer_gets_the_range_of_its_own_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    sites, _ = find_sites(model)
    scales = input_scales(model, sites, [torch.rand(64, 8) * 5 + 1 for _ in range(3)])
    assert set(scales) == {"0", "2"}
    assert scales["0"][1] == 0 and 5.5 / 255 < scales["0"][0] <= 6 / 255  # inputs in [1, 6], zero kept
    assert scales["2"][1] == 0  # behind a ReLU nothing is negative


def test_a_layer_that_no_batch_reaches_is_left_out_and_bad_data_is_named():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Half()
    sites, _ = find_sites(model)
    assert set(input_scales(model, sites, [torch.rand(2, 4)])) == {"used"}
    with pytest.raises(DataError, match="data is empty"):
        input_scales(model, sites, [])
    with pytest.raises(DataError, match="holds NaN"):
        input_scales(model, sites, [torch.full((2, 4), float("nan"))])
