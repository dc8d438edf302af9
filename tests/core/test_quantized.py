"""Weights as integers with scales."""

import pytest
import torch

from rarefy.core.errors import DTypeError, ShapeError
from rarefy.core.quantized import InputScale, QuantizedWeight, quantize_weight


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


def test_magnitudes_too_small_for_a_step_become_zeros():
    q = quantize_weight(torch.tensor([[1e-44, 0.0, -1e-44, 3e-45], [2.0, 0.0, -1.0, 0.0]]))
    assert q.scale.tolist() == [[1.0], [pytest.approx(2 / 127)]]
    assert q.values[0].tolist() == [0, 0, 0, 0] and q.values[1].tolist() == [127, 0, -64, 0]


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


def test_records_that_contradict_themselves_are_refused():
    values, scale = torch.zeros(2, 6, dtype=torch.int8), torch.ones(2, 3)
    with pytest.raises(ShapeError, match="bits=5; 8 and 4"):
        QuantizedWeight(values, scale, 5)
    for wrong in ((values[0], scale), (values, scale[0]), (values, scale[:1])):
        with pytest.raises(ShapeError, match=r"must be \(out, in\) and \(out, groups\)"):
            QuantizedWeight(*wrong)
    with pytest.raises(ShapeError, match="0 scales a row do not divide 6"):
        QuantizedWeight(values, scale[:, :0])
    with pytest.raises(DTypeError, match=r"scales torch\.float64"):
        QuantizedWeight(values, scale.double())
    for group in (0, -2):
        with pytest.raises(ShapeError, match="does not divide"):
            quantize_weight(weight(), group=group)
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\), it must be \(out, in\)"):
        quantize_weight(torch.rand(2, 3, 4))


def test_what_a_record_says_of_itself():
    q = QuantizedWeight(torch.tensor([[1, 2, 3, -4]], dtype=torch.int8), torch.tensor([[0.5, 2.0]]), 4)
    assert (q.shape, q.groups, q.largest) == ((1, 4), 2, 7)
    assert q.dequantize().tolist() == [[0.5, 1.0, 6.0, -8.0]]
    assert QuantizedWeight(q.values, q.scale).bits == 8 and QuantizedWeight(q.values, q.scale).largest == 127
    empty = quantize_weight(torch.zeros(3, 0), 4)
    assert (empty.values.shape, empty.scale.tolist(), empty.bits) == ((3, 0), [[1.0]] * 3, 4)


def test_scales_of_groups_are_their_largest_over_the_largest_integer():
    w = torch.tensor([[12.7, -1.0, 0.0, 0.0, 0.5, -2.54]])
    q = quantize_weight(w, 8, 2)
    assert torch.allclose(q.scale, torch.tensor([[0.1, 1.0, 0.02]]))
    assert q.values.tolist() == [[127, -10, 0, 0, 25, -127]]
    assert quantize_weight(torch.tensor([[7.0, 0.5, 1.5, -2.5]]), 4).values.tolist() == [[7, 0, 2, -2]]  # ties to even
    assert q.scale.is_contiguous()
    small = quantize_weight(torch.tensor([[0.254, -0.5, 0.0]]), 8, 1)  # a scale an input, of largest below 1
    assert torch.allclose(small.scale, torch.tensor([[0.002, 0.5 / 127, 1.0]])) and small.groups == 3
    assert small.values.tolist() == [[127, -127, 0]]


def test_inputs_are_rounded_saturated_and_come_back_within_half_a_step():
    plain = InputScale(0.5, 10)
    x = torch.tensor([[-5.0, -100.0, 0.0, 0.25, 0.75, 1.0, 122.5, 200.0]])
    assert plain.quantise(x).tolist() == [[0, 0, 10, 10, 12, 12, 255, 255]]  # ties to even
    assert plain.quantise(x).dtype == torch.uint8
    assert plain.rounded(x).tolist() == [[-5.0, -5.0, 0.0, 0.0, 1.0, 1.0, 122.5, 122.5]]
    assert plain.inverse.tolist() == [2.0] and plain.folded(x) is x


def test_factors_move_from_the_inputs_to_the_weight():
    scaled = InputScale(0.5, 10, (1.0, 2.0, 4.0))
    assert scaled.inverse.tolist() == [2.0, 1.0, 0.5]
    x, w = torch.tensor([[3.0, 6.0, -8.0]]), torch.tensor([[1.0, 0.0, 3.0]])
    assert scaled.quantise(x).tolist() == [[16, 16, 6]]
    assert scaled.folded(w).tolist() == [[1.0, 0.0, 12.0]]
    steps = (scaled.quantise(x).float() - scaled.zero) * scaled.scale
    assert torch.equal(steps @ scaled.folded(w).T, x @ w.T)
    assert torch.equal(scaled.rounded(x), x)
