"""The torch operations: schemas, shapes, autograd, tracing, refusals."""

import copy
import pickle

import pytest
import torch
from oracle import assert_close, expected, normal, sparse

from rarefy import ops
from rarefy.core.errors import DTypeError, EngineError, RarefyError, ShapeError, UnknownNameError

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def csr(weight):
    sparse_weight = weight.to_sparse_csr()
    return sparse_weight.values().clone(), sparse_weight.col_indices().clone(), sparse_weight.crow_indices().clone()


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_packed_linear_passes_opcheck(activation):
    packed = ops.pack(sparse(12, 10, 0.5))
    x, bias = normal(3, 4, 10).requires_grad_(), normal(12).requires_grad_()
    torch.library.opcheck(
        torch.ops.rarefy.packed_linear.default, (x, packed.handle, bias, activation, 12), test_utils=CHECKS
    )


def test_the_other_operations_pass_opcheck():
    weight = sparse(12, 10, 0.5)
    values, columns, offsets = csr(weight)
    packed = ops.pack(weight)
    x, grad, bias = normal(4, 10), normal(4, 12), normal(12)
    for name, args in {
        "packed_input_grad": (grad, packed.handle, 10),
        "csr_linear": (
            x.clone().requires_grad_(),
            values.clone().requires_grad_(),
            columns,
            offsets,
            bias.requires_grad_(),
            12,
        ),
        "csr_input_grad": (grad, values, columns, offsets, 10),
        "sddmm": (grad, x, columns, offsets),
    }.items():
        torch.library.opcheck(getattr(torch.ops.rarefy, name).default, args, test_utils=CHECKS)


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_gradients_of_the_packed_linear(activation):
    weight = sparse(12, 10, 0.5)
    packed = ops.pack(weight)
    x, bias, grad = normal(5, 10).requires_grad_(), normal(12).requires_grad_(), normal(5, 12, seed=9)
    torch.ops.rarefy.packed_linear(x, packed.handle, bias, activation, 12).backward(grad)
    x64, bias64 = x.detach().double().requires_grad_(), bias.detach().double().requires_grad_()
    expected(x64, weight, None, "none")
    before = x64 @ weight.double().T + bias64
    ops.reference.ACTIVATIONS[activation](before).backward(grad.double())
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bias.grad.double(), bias64.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 3, 64, 130])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_compressed_rows_forward_and_backward(tokens, density):
    weight = sparse(70, 45, density)
    values, columns, offsets = csr(weight)
    values = values.clone().requires_grad_()
    x, bias, grad = normal(tokens, 45).requires_grad_(), normal(70).requires_grad_(), normal(tokens, 70, seed=3)
    out = torch.ops.rarefy.csr_linear(x, values, columns, offsets, bias, 70)
    assert_close(out.detach(), x.detach(), weight, bias.detach(), "none")
    out.backward(grad)
    torch.testing.assert_close(x.grad.double(), grad.double() @ weight.double(), atol=2e-4, rtol=1e-4)
    support = (grad.double().T @ x.detach().double())[weight != 0]
    torch.testing.assert_close(values.grad.double(), support, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(bias.grad.double(), grad.double().sum(0), atol=1e-4, rtol=1e-4)


def test_int32_and_int64_indices_give_the_same():
    weight, x = sparse(20, 30, 0.3), normal(6, 30)
    values, columns, offsets = csr(weight)
    a = torch.ops.rarefy.csr_linear(x, values, columns, offsets, None, 20)
    b = torch.ops.rarefy.csr_linear(x, values, columns.int(), offsets.int(), None, 20)
    assert torch.equal(a, b)


def test_leading_shapes_and_strides():
    weight = sparse(12, 10, 0.5)
    packed = ops.pack(weight)
    for x in (normal(10), normal(2, 3, 10), normal(10, 7).T, normal(4, 20)[:, ::2], normal(2, 0, 10)):
        got = torch.ops.rarefy.packed_linear(x, packed.handle, None, "none", 12)
        assert got.shape == (*x.shape[:-1], 12)
        flat = x.reshape(-1, 10) if x.numel() else x.new_zeros(0, 10)
        assert_close(got.reshape(flat.shape[0], 12), flat, weight, None, "none")


def test_compiles_into_a_graph_without_breaks():
    packed = ops.pack(sparse(12, 10, 0.5))
    handle, bias = packed.handle, normal(12)
    run = lambda x: torch.ops.rarefy.packed_linear(x, handle, bias, "relu", 12) + 1  # noqa: E731
    x = normal(6, 10)
    assert torch.equal(torch.compile(run, backend="aot_eager", fullgraph=True)(x), run(x))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"x": torch.zeros(3, 11)}, ShapeError, "in_features=10"),
        ({"x": torch.tensor(1.0)}, ShapeError, "in_features=10"),
        ({"x": torch.zeros(3, 10, dtype=torch.float64)}, DTypeError, "x.float"),
        ({"x": torch.zeros(3, 10, dtype=torch.bfloat16)}, DTypeError, "bfloat16"),
        ({"bias": torch.zeros(11)}, ShapeError, "12"),
        ({"activation": "swish"}, UnknownNameError, "swish"),
        ({"out_features": 13}, ShapeError, "13"),
        ({"handle": 10**9}, EngineError, "does not exist"),
    ],
)
def test_refusals_of_the_packed_linear(change, error, says):
    packed = ops.pack(sparse(12, 10, 0.5))
    args = {
        "x": torch.zeros(3, 10),
        "handle": packed.handle,
        "bias": None,
        "activation": "none",
        "out_features": 12,
    } | change
    with pytest.raises(error, match=says):
        torch.ops.rarefy.packed_linear(**args)
    assert issubclass(error, RarefyError)


@pytest.mark.parametrize(
    "harm",
    [
        lambda c, o: (c + 100, o),
        lambda c, o: (c - 100, o),
        lambda c, o: (c + 2**40, o),
        lambda c, o: (c, o.flip(0)),
        lambda c, o: (c, o + 1),
        lambda c, o: (c, o * 2),
        lambda c, o: (c, torch.cat([o[:1], o[1:-1] + 10**6, o[-1:]])),
        lambda c, o: (c[:-1], o),
        lambda c, o: (c, o[:-1]),
        lambda c, o: (c.float(), o),
    ],
    ids=[
        "column too large",
        "column negative",
        "column huge",
        "offsets fall",
        "first not 0",
        "last not entries",
        "one far off",
        "columns short",
        "offsets short",
        "float columns",
    ],
)
def test_hostile_indices_never_reach_a_kernel(harm):
    weight = sparse(12, 10, 0.5)
    values, columns, offsets = csr(weight)
    columns, offsets = harm(columns, offsets)
    x, grad = normal(4, 10), normal(4, 12)
    for call in (
        lambda: torch.ops.rarefy.csr_linear(x, values, columns, offsets, None, 12),
        lambda: torch.ops.rarefy.csr_input_grad(grad[:, : offsets.numel() - 1], values, columns, offsets, 10),
        lambda: torch.ops.rarefy.sddmm(grad[:, : offsets.numel() - 1], x, columns, offsets),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()


def test_a_deleted_weight_is_gone():
    packed = ops.pack(sparse(12, 10, 0.5))
    handle = packed.handle
    del packed
    with pytest.raises(EngineError, match="keep the PackedWeight"):
        torch.ops.rarefy.packed_linear(torch.zeros(3, 10), handle, None, "none", 12)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_are_packed_anew(way):
    weight = sparse(12, 10, 0.5)
    packed = ops.pack(weight)
    other = way(packed)
    assert other.handle != packed.handle
    assert (other.kernel, other.shape, other.nnz) == (packed.kernel, packed.shape, packed.nnz)
    assert torch.equal(other.to_dense(), weight)


def test_a_packed_weight_cannot_be_changed():
    packed = ops.pack(sparse(12, 10, 0.5))
    with pytest.raises(AttributeError):
        packed.handle = 3


def test_packing_refuses_what_it_cannot_store():
    for weight, error in (
        (torch.zeros(3, 4, dtype=torch.float64), DTypeError),
        (torch.zeros(3), ShapeError),
        (torch.zeros(1, 2, 3), ShapeError),
    ):
        with pytest.raises(error):
            ops.pack(weight)
    with pytest.raises((UnknownNameError, EngineError)):
        ops.pack(torch.zeros(3, 4), "spmm-avx512-r7")


@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 8, 16, 100, 2048])
def test_candidates_are_kernels_that_can_be_packed(tokens):
    weight = sparse(40, 50, 0.3)
    names = ops.candidates(weight, tokens)
    assert names
    assert len(set(names)) == len(names)
    for name in names:
        assert ops.pack(weight, name).kernel == name
