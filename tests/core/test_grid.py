"""Grids: scales that lose nothing, integers that a layer keeps, and when they are no more to be trusted."""

import copy

import pytest
import torch
from torch import nn

from rarefy.core.errors import ShapeError, SparsityError, UnknownNameError
from rarefy.core.grid import Grid, QuantizeSpec, attach_grid, codes_of, fit_scales, grid_of, short, tidy
from rarefy.core.quantized import QuantizedWeight
from rarefy.core.site import Site


def test_short_scales_fit_two_bytes_and_never_shrink() -> None:
    scale = torch.rand(1000) * 10.0 ** torch.randint(-6, 6, (1000,))
    rounded = short(scale)
    assert torch.equal(rounded.bfloat16().float(), rounded)
    assert (rounded >= scale).all() and (rounded <= scale * (1 + 2**-7)).all()
    codes = torch.arange(-127, 128)
    exact = rounded.double()[:, None] * codes
    assert torch.equal((rounded[:, None] * codes.float()).double(), exact)


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 16), (4, None), (4, 16), (4, 32)])
def test_a_fitted_scale_is_no_worse_than_the_largest_weights(bits: int, group: int | None) -> None:
    weight = torch.randn(12, 64)
    keep = torch.rand(12, 64) < 0.5
    spec = QuantizeSpec(bits, group)
    fitted = Grid(fit_scales(weight, keep, spec), bits)
    peak = (weight * keep).reshape(12, -1, group or 64).abs().amax(-1) / spec.largest
    plain = Grid(short(peak), bits)
    errors = [(g.round(weight * keep).dequantize() - weight * keep).square().sum() for g in (fitted, plain)]
    assert errors[0] <= errors[1]
    assert bits == 8 or errors[0] < 0.97 * errors[1]
    assert fitted.scale.shape == (12, 64 // (group or 64))


def test_importance_decides_what_a_scale_is_made_for() -> None:
    weight = torch.tensor([[7.0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]])
    keep = torch.ones_like(weight).bool()
    spec = QuantizeSpec(4)
    of_all, of_small = (fit_scales(weight, keep, spec, torch.tensor([w] + [1.0] * 7)) for w in (1.0, 1e-6))
    assert of_small < of_all
    assert (Grid(of_small, 4).round(weight).dequantize() - weight)[0, 1:].abs().max() < 0.11


def test_groups_that_keep_nothing_have_scale_one() -> None:
    keep = torch.zeros(2, 32, dtype=torch.bool)
    keep[0, :16] = True
    scale = fit_scales(torch.randn(2, 32), keep, QuantizeSpec(4, 16))
    assert scale[0, 0] != 1 and scale[0, 1] == 1 and (scale[1] == 1).all()
    loose = QuantizedWeight(torch.zeros(1, 4, dtype=torch.int8), torch.full((1, 2), 0.3), 4)
    assert (tidy(loose).scale == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", [nn.Linear(32, 8), nn.Conv2d(8, 8, 2)])
def test_a_layer_keeps_its_integers_through_copies_until_its_weight_moves(layer: nn.Module, dtype: torch.dtype) -> None:
    layer = copy.deepcopy(layer).to(dtype)
    site = Site("layer", (layer,))
    grid = Grid(fit_scales(site.read(), torch.ones(8, 32).bool(), QuantizeSpec(8)), 8)
    codes = grid.round(site.read())
    site.write(codes.dequantize(), torch.ones(8, 32).bool())
    assert codes_of(layer) is None
    attach_grid(site, grid)
    for held in (layer, copy.deepcopy(layer)):
        found = codes_of(held)
        assert found is not None and torch.equal(found.values, codes.values) and torch.equal(found.scale, codes.scale)
    with torch.no_grad():
        layer.weight.view(-1)[3] = 200.5 * float(grid.scale[0, 0])
    assert codes_of(layer) is None and grid_of(layer) is grid
    attach_grid(site, None)
    assert grid_of(layer) is None


@pytest.mark.parametrize(("bits", "group"), [(3, None), (16, None), (4, 0), (8, -16)])
def test_specs_that_nothing_stores(bits: int, group: int | None) -> None:
    with pytest.raises(SparsityError, match="QuantizeSpec"):
        QuantizeSpec(bits, group)


def test_unknown_rounding_and_groups_that_do_not_divide() -> None:
    with pytest.raises(UnknownNameError, match="nearest"):
        QuantizeSpec(4, rounding="neerest")
    with pytest.raises(ShapeError, match=r"fc: groups of 48 inputs.*64 inputs.*group=None"):
        QuantizeSpec(4, 48).require(64, "fc")
