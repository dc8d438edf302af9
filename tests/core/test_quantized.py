"""Weights as integers with scales."""

import pytest
import torch

from rarefy.core.errors import DTypeError, ShapeError
from rarefy.core.quantized import QuantizedWeight, quantize_weight


def weight(out=6, width=32, density=0.4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(out, width, generator=g) * (torch.rand(out, width, generator=g) < density)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [None, 8, 32])
def test_rounding_errs_by_half_a_step_at_most_and_keeps_zeros(bits, group):
    w = weight()
    q = quantize_weight(w, bits, group)
    step = q.scale.repeat_interleave(32 // q.groups, 1)
    assert bool(((q.dequantize() - w).abs() <= step / 2 * (1 + 1e-5)).all())
    assert bool((q.dequantize()[w == 0] == 0).all())
    assert int(q.values.abs().max()) == (127 if bits == 8 else 7)
    assert q.groups == (1 if group is None else 32 // group)


def test_a_row_of_zeros_and_no_inputs_at_all():
    assert quantize_weight(torch.zeros(3, 4)).dequantize().equal(torch.zeros(3, 4))
    assert quantize_weight(torch.zeros(3, 0)).dequantize().shape == (3, 0)


def test_what_does_not_fit_is_named():
    with pytest.raises(ShapeError, match="group=5 does not divide the 32 inputs"):
        quantize_weight(weight(), group=5)
    with pytest.raises(ShapeError, match="bits=3"):
        quantize_weight(weight(), 3)
    with pytest.raises(DTypeError, match="int64"):
        quantize_weight(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ShapeError, match="do not divide"):
        QuantizedWeight(torch.zeros(2, 6, dtype=torch.int8), torch.ones(2, 4))
    with pytest.raises(DTypeError, match="must be int8"):
        QuantizedWeight(torch.zeros(2, 6), torch.ones(2, 2))
