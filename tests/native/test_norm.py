"""The layer norm of a sum against float64, every instruction set, widths around every vector edge."""

import pytest
import torch
import torch.nn.functional as F
from oracle import EPS, normal

from rarefy import ops
from rarefy.core.errors import DTypeError, ShapeError
from rarefy.ops import native

LEVELS = ("scalar", "avx2", "avx512", "vnni", "vbmi2", "amx")
IN_FORCE = native.module().isa() if ops.available() else None
ISAS = LEVELS[: LEVELS.index(IN_FORCE) + 1] if IN_FORCE else ()
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.fixture(params=[*ISAS, "reference"])
def isa(request, monkeypatch):
    """Each instruction set in turn (it is asked for at every call), and the path in torch."""
    if request.param == "reference":
        monkeypatch.setattr(native, "module", lambda: None)
    else:
        monkeypatch.setenv("RAREFY_ISA", request.param)
    return request.param


def assert_close(got, x, residual, weight, bias, eps):
    """Each step rounds once: the sum (eps |s|), the mean and variance of n terms, the division, the affine map."""
    total = x.double() if residual is None else x.double() + residual.double()
    features = total.shape[-1]
    want = F.layer_norm(total, (features,), weight.double(), None if bias is None else bias.double(), eps)
    inverse = (total.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    size = total.abs().amax(-1, keepdim=True) * inverse  # what cancellation against the mean magnifies
    room = EPS * ((features + 8) * (size + 1) * weight.double().abs() + 2 * want.abs() + 2)
    assert got.shape == want.shape
    assert ((got.double() - want).abs() <= room).all()


@pytest.mark.parametrize("features", [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 384, 1000])
def test_widths_around_every_vector_edge(isa, features):
    weight, bias = normal(features, seed=3), normal(features, seed=4)
    for rows in (1, 2, 17):
        x, residual = normal(rows, features, seed=rows), normal(rows, features, seed=rows + 50)
        for r, b in ((residual, bias), (None, bias), (residual, None)):
            got = torch.ops.rarefy.add_layer_norm(x, r, weight, b, 1e-5)
            assert_close(got, x, r, weight, b, 1e-5)


def test_a_row_does_not_depend_on_its_neighbours(isa):
    """Rows are computed some at a time, the last ones one by one."""
    x, residual, weight, bias = normal(11, 100), normal(11, 100, seed=2), normal(100, seed=3), normal(100, seed=4)
    x[5, 7] = float("inf")
    whole = torch.ops.rarefy.add_layer_norm(x, residual, weight, bias, 1e-5)
    for row in range(11):
        got = torch.ops.rarefy.add_layer_norm(x[row:], residual[row:], weight, bias, 1e-5)
        torch.testing.assert_close(got, whole[row:], rtol=0, atol=0, equal_nan=True)
    assert whole.isnan().any(1).tolist() == [row == 5 for row in range(11)]


def test_an_offset_far_above_the_spread(isa):
    x, weight, bias = 1000 + normal(9, 100), normal(100), normal(100, seed=5)
    assert_close(torch.ops.rarefy.add_layer_norm(x, x, weight, bias, 1e-5), x, x, weight, bias, 1e-5)


def test_a_constant_row_gives_the_bias(isa):
    x, bias = torch.full((3, 40), 2.5), normal(40)
    assert torch.equal(torch.ops.rarefy.add_layer_norm(x, None, normal(40), bias, 1e-5), bias.expand(3, 40))


@pytest.mark.parametrize("shape", [(4, 7, 20), (1, 7, 20), (7, 20), (1, 20), (20,), (1, 1, 20)])
def test_residuals_that_repeat(isa, shape):
    x, residual, weight, bias = normal(4, 7, 20), normal(*shape, seed=6), normal(20), normal(20, seed=7)
    got = torch.ops.rarefy.add_layer_norm(x, residual, weight, bias, 1e-5)
    assert_close(got, x, residual.expand_as(x), weight, bias, 1e-5)


def test_a_nan_stays_in_its_row_and_strides_are_followed(isa):
    weight = normal(20)
    x = normal(20, 6).T
    assert_close(torch.ops.rarefy.add_layer_norm(x, x[:1], weight, None, 1e-5), x, x[:1], weight, None, 1e-5)
    x = x.clone()
    x[2, 19] = float("nan")
    assert torch.ops.rarefy.add_layer_norm(x, None, weight, None, 1e-5).isnan().any(1).tolist() == [
        i == 2 for i in range(6)
    ]


def test_no_rows_and_thread_counts():
    weight = normal(384)
    assert torch.ops.rarefy.add_layer_norm(torch.zeros(0, 384), None, weight, None, 1e-5).shape == (0, 384)
    x, results = normal(301, 384), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(torch.ops.rarefy.add_layer_norm(x, x, weight, weight, 1e-5))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("shape", [None, (3, 4, 10), (1, 4, 10), (10,)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_opcheck_and_gradients(shape, with_bias):
    x, weight = normal(3, 4, 10).requires_grad_(), normal(10, seed=2).requires_grad_()
    residual = None if shape is None else normal(*shape, seed=3).requires_grad_()
    bias = normal(10, seed=4).requires_grad_() if with_bias else None
    args = (x, residual, weight, bias)
    torch.library.opcheck(torch.ops.rarefy.add_layer_norm.default, (*args, 1e-5), test_utils=CHECKS)
    grad = normal(3, 4, 10, seed=8)
    torch.ops.rarefy.add_layer_norm(*args, 1e-5).backward(grad)
    twins = [None if t is None else t.detach().double().requires_grad_() for t in args]
    total = twins[0] if twins[1] is None else twins[0] + twins[1]
    F.layer_norm(total, (10,), twins[2], twins[3], 1e-5).backward(grad.double())
    for mine, twin in zip(args, twins, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine.grad.double(), twin.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": torch.zeros(3, 9)}, ShapeError, "in_features=10"),
        ({"weight": torch.zeros(2, 5)}, ShapeError, "weight"),
        ({"bias": torch.zeros(9)}, ShapeError, "bias"),
        ({"residual": torch.zeros(2, 10)}, ShapeError, "repeat along"),
        ({"residual": torch.zeros(3, 1)}, ShapeError, "repeat along"),
        ({"residual": torch.zeros(1, 3, 10)}, ShapeError, "repeat along"),
        ({"x": torch.zeros(3, 10, dtype=torch.float16)}, DTypeError, "x.float"),
    ],
)
def test_refusals(change, error, says):
    args = {"x": torch.zeros(3, 10), "residual": None, "weight": torch.ones(10), "bias": None} | change
    with pytest.raises(error, match=says):
        torch.ops.rarefy.add_layer_norm(**args, eps=1e-5)
