"""Static scales of 8-bit inputs."""

import pytest
import torch
from torch import nn

from rarefy.core.errors import DataError
from rarefy.core.quantized import InputScale, quantize_weight
from rarefy.core.site import find_sites
from rarefy.engine.input_scales import best_scale, choose_scale, input_scales, scale_of
from rarefy.engine.seen_inputs import Seen


def test_zero_is_exact_and_the_ends_are_within_half_a_step():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        scale = scale_of(low, high)
        x = torch.tensor([low, 0.0, high])
        error = (scale.rounded(x) - x).abs()
        assert float(error[1]) == 0.0
        assert bool((error <= scale[0] * 0.5001 + 1e-30).all())
        assert 0 <= scale[1] <= 255


def test_extremes_that_hardly_any_value_reaches_are_cut():
    x = torch.randn(1 << 15, generator=torch.Generator().manual_seed(0))
    whole, best = scale_of(-20.0, 20.0), best_scale(x, -20.0, 20.0)
    error = [float((s.rounded(x) - x).square().mean()) for s in (whole, best)]
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


def _uneven(rows: int = 400, width: int = 32) -> torch.Tensor:
    """Inputs of which two are fifty times as wide as the others."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    x[:, :2] *= 50
    return x


def _loss(x: torch.Tensor, weight: torch.Tensor, scale: InputScale) -> float:
    """Of the outputs, relative: what a layer with these 8-bit inputs and an 8-bit weight gives."""
    held = quantize_weight(scale.folded(weight)).dequantize() / torch.tensor(scale.factors or (1.0,))
    return float((scale.rounded(x) @ held.T - x @ weight.T).norm() / (x @ weight.T).norm())


def _seen(x: torch.Tensor) -> Seen:
    seen = Seen()
    seen.add(x, 1)
    return seen


def test_wide_inputs_get_factors_that_spare_the_others():
    x, weight = _uneven(), torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    weight[:, :2] /= 50
    weight[:, 5] = 0.0
    scale = choose_scale(_seen(x), [weight])
    low, high = float(x.min()), float(x.max())
    assert len(scale.factors) == 32 and min(scale.factors[:2]) > 5 * max(scale.factors[2:5])
    assert torch.equal(scale.folded(weight) == 0, weight == 0)
    assert _loss(x, weight, scale) < 0.2 * _loss(x, weight, best_scale(x, low, high))


def test_inputs_alike_get_none():
    x, weight = torch.rand(300, 16) - 0.3, torch.ones(8, 16)
    assert choose_scale(_seen(x), [weight]).factors == ()


def test_layers_that_read_the_same_inputs_share_one_scale():
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.after = (nn.Linear(32, 32) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.after(self.q(x) * self.k(x) + self.v(x))

    torch.manual_seed(0)
    model = Three()
    scales = input_scales(model, find_sites(model)[0], [_uneven()[:200], _uneven()[200:]])
    assert scales["q"] == scales["k"] == scales["v"] != scales["after"]
    assert scales["q"].factors
