"""Max pooling, and the convolution that is pooled a few rows at a time, against torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import normal

from rarefy import ops
from rarefy.core.errors import ShapeError
from rarefy.ops import Pool, Window, conv_kernels

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")


@st.composite
def pools(draw):
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    kernel = pair(1, 5)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    return Pool(kernel, pair(1, 4), padding, pair(1, 2), draw(st.booleans()))


def reference(x, pool):
    return F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil)


@settings(max_examples=150, deadline=None)
@given(pools(), st.integers(0, 3), st.integers(1, 40), st.integers(1, 70))
def test_as_torch(pool, batch, high, wide):
    x = normal(batch, 3, high, wide)
    if x.numel() > 4:
        x.view(-1)[x.numel() // 2], x.view(-1)[0] = float("nan"), float("-inf")
    try:
        wanted = reference(x, pool)
    except RuntimeError:  # an image smaller than the window
        return
    got = torch.ops.rarefy.max_pool2d(x, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil)
    assert torch.equal(got.nan_to_num(1e9), wanted.nan_to_num(1e9))


@settings(max_examples=80, deadline=None)
@given(pools(), st.data())
def test_a_convolution_pooled_row_by_row(pool, data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    kernel, stride = draw(1, 7), draw(1, 3)
    weight, bias = normal(draw(1, 9), draw(1, 4), kernel, kernel), normal(9)
    window = Window((stride, stride), (kernel // 2, kernel // 2))
    x = normal(draw(0, 5), weight.shape[1], draw(kernel, 50), draw(kernel, 40))
    bias = bias[: weight.shape[0]].contiguous()
    try:
        wanted = reference(F.relu(F.conv2d(x, weight, bias, stride, kernel // 2)), pool)
    except RuntimeError:
        return
    torch.set_num_threads(draw(1, 3))
    packed = ops.pack_conv(weight, window, data.draw(st.sampled_from([k.name for k in conv_kernels.kernels()])))
    got = packed.convolve_pooled(x, bias, "relu", pool)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_operation_is_what_torch_expects():
    x = normal(1, 2, 9, 9).requires_grad_()
    window = ([3, 3], [2, 2], [1, 1], [1, 1])
    torch.library.opcheck(torch.ops.rarefy.max_pool2d.default, (x, *window, False))
    (mine,) = torch.autograd.grad(torch.ops.rarefy.max_pool2d(x, *window).pow(2).sum(), x)
    (theirs,) = torch.autograd.grad(F.max_pool2d(x, *window).pow(2).sum(), x)
    torch.testing.assert_close(mine, theirs)


def test_wrong_inputs_say_what_was_expected():
    with pytest.raises(ShapeError, match="smaller than the kernel"):
        torch.ops.rarefy.max_pool2d(normal(1, 1, 2, 2), [3, 3], [1, 1], [0, 0], [1, 1])
    with pytest.raises(ShapeError, match="at most half"):
        torch.ops.rarefy.max_pool2d(normal(1, 1, 9, 9), [3, 3], [1, 1], [2, 2], [1, 1])
    with pytest.raises(ShapeError, match="batch, channels"):
        torch.ops.rarefy.max_pool2d(normal(1, 9, 9), [3, 3], [1, 1], [1, 1], [1, 1])
