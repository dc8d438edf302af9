"""Packing by itself: which kernel is taken, what is kept beside the layout, and which arguments are refused."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from oracle import normal, sparse

from rarefy import ops
from rarefy.core.errors import DTypeError, EngineError, ShapeError, UnknownNameError
from rarefy.core.quantized import InputScale, QuantizedWeight, quantize_weight
from rarefy.ops import native, packed
from rarefy.ops.native import KernelInfo
from rarefy.ops.packed import candidates, find, pack, pick_rows, selecting

KERNELS = {k.name: k for k in ops.kernels()}
pytestmark = pytest.mark.skipif(not KERNELS, reason="the native module is not built")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def named(op: str, weights: str, activations: str = "fp32") -> str:
    return next(k.name for k in KERNELS.values() if (k.op, k.weights, k.activations) == (op, weights, activations))


def test_what_is_known_of_a_packed_weight() -> None:
    weight = sparse(6, 8, 0.5)
    one, other = pack(weight), pack(weight)
    assert one.handle != other.handle and find(one.handle) is one and find(other.handle) is other
    assert one.shape == (6, 8) and one.nnz == int(weight.count_nonzero()) and one.nbytes > 0
    assert (one.quantized, one.input_scale, one.source) == (None, None, None)
    assert one.layout is not None and one._source().equal(weight)
    for hidden in ("_layout", "quantized", "source", "tensor"):
        assert hidden not in repr(one)
    gone = one.handle
    del one
    with pytest.raises(EngineError, match=f"packed weight {gone} does not exist"):
        find(gone)


def test_the_reference_by_name_is_a_dense_weight_of_its_own() -> None:
    tiny = torch.finfo(torch.float32).tiny
    weight = torch.tensor([[1e-40, 2.0, tiny, -tiny], [0.0, -3.0, float("inf"), -1e-45]])
    plain = pack(weight, "reference")
    want = torch.tensor([[0.0, 2.0, tiny, -tiny], [0.0, -3.0, float("inf"), 0.0]])
    assert plain.kernel == "reference" and plain.layout is None and plain.shape == (2, 4)
    assert torch.equal(plain.to_dense(), want) and (plain.nnz, plain.nbytes) == (5, 32)
    plain.to_dense().zero_()
    assert torch.equal(plain.to_dense(), want)
    assert pickle.loads(pickle.dumps(plain)).kernel == "reference"


@pytest.mark.parametrize("kernel", ["reference", None])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_products(kernel: str | None, activation: str) -> None:
    weight, x = sparse(7, 9, 0.6), normal(5, 9)
    held = pack(weight, kernel)
    for bias in (None, normal(7, seed=4)):
        want = ops.reference.ACTIVATIONS[activation](F.linear(x, weight, bias))
        torch.testing.assert_close(held.multiply(x, bias, activation), want, **CLOSE)


def test_a_quantized_weight_stays_beside_its_layout() -> None:
    codes = quantize_weight(sparse(6, 32, 0.6))
    for scale in (None, InputScale(0.1, 7), InputScale(0.1, 7, tuple(2.0 ** (i % 3) for i in range(32)))):
        for kernel in ("reference", named("dense8", "int8", "int8")):
            held = pack(codes, kernel, input_scale=scale)
            assert held.quantized is codes and held.input_scale == scale and held._source() is codes
            factors = torch.tensor(scale.factors) if scale and scale.factors else 1.0
            torch.testing.assert_close(held.to_dense(), codes.dequantize() / factors)
            again = pickle.loads(pickle.dumps(held))
            assert again.input_scale == scale and torch.equal(again.quantized.values, codes.values)
            assert again.kernel == kernel and again.handle != held.handle
            for twin in (copy.copy(held), copy.deepcopy(held)):
                assert twin.handle != held.handle and twin.layout is held.layout and find(twin.handle) is twin


def test_without_a_scale_each_token_has_its_own() -> None:
    codes = quantize_weight(normal(6, 32))
    held = pack(codes, named("dense8", "int8", "int8"))
    x = normal(3, 32) * torch.tensor([[1e-3], [1.0], [1e3]])
    want = F.linear(x, codes.dequantize())
    error = (held.multiply(x, None, "none") - want).abs().amax(1) / want.abs().amax(1)
    assert (error < 0.03).all()
    halves = 0.5 * torch.ones(1, 32)
    scales = (0.5, 3), (0.25, 9)  # both hold them exactly
    one, other = (pack(codes, held.kernel, input_scale=s).multiply(halves, None, "none") for s in scales)
    assert torch.equal(one, other)


def test_a_pickle_is_packed_for_what_is_there() -> None:
    weight = sparse(6, 8, 0.5)
    name = next(k.name for k in KERNELS.values() if k.op == "spmm" and k.isa == "scalar")
    assert packed._unpickle(weight, name, None).kernel == name
    assert packed._unpickle(weight, "of-another-machine", None).kernel == pack(weight).kernel


def test_the_likely_kernel_is_that_of_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, names = [], {128: [], 1: [named("spmv", "fp32"), named("spmm", "fp32")]}

    def answer(weight: object, tokens: int, weights: str, activations: str) -> list[str]:
        asked.append((tokens, weights, activations))
        return names[tokens]

    monkeypatch.setattr(packed, "candidates", answer)
    assert pack(normal(4, 8)).kernel == names[1][0]
    assert asked == [(128, "fp32", "fp32"), (1, "fp32", "fp32")]
    asked.clear()
    names[128] = [named("dense8", "int8", "int8")]
    codes = quantize_weight(normal(4, 8))
    for scale, activations in ((None, "fp32"), ((0.1, 3), "fp32"), (InputScale(0.1, 3, (1.0,) * 8), "int8")):
        assert pack(codes, input_scale=scale).kernel == names[128][0]
        assert asked.pop() == (128, "int8", activations)
    names[128] = [named("matvec4", "int4")]
    pack(quantize_weight(normal(4, 32), 4, 16))
    assert asked == [(128, "int4", "fp32")]


def test_a_source_gives_the_weight_again() -> None:
    codes = quantize_weight(sparse(6, 32, 0.6))
    held = replace(pack(codes, named("dense8", "int8", "int8")), quantized=None, source=lambda: codes)
    assert held._source() is codes


def test_weights_of_any_strides_and_with_a_gradient() -> None:
    weight = sparse(6, 8, 0.5)
    assert torch.equal(pack(weight.T.contiguous().T).to_dense(), weight)
    assert torch.equal(pack(weight.clone().requires_grad_()).to_dense(), weight)
    codes = quantize_weight(weight)
    turned = QuantizedWeight(codes.values.T.contiguous().T, codes.scale.expand(6, 2)[:, ::2], codes.bits)
    assert torch.equal(pack(turned, named("dense8", "int8", "int8")).to_dense(), codes.dequantize())


def test_weights_that_are_refused() -> None:
    for wrong in (normal(4), normal(2, 3, 4)):
        with pytest.raises(ShapeError, match=r"it must be \(out, in\)"):
            pack(wrong)
    with pytest.raises(DTypeError, match="weight"):
        pack(normal(2, 3).double())
    for many, name in ((torch.zeros(2**31, 0), "out"), (torch.zeros(0, 2**31), "in")):
        with pytest.raises(ShapeError, match=f"the weight's {name}"):
            pack(many)
    with pytest.raises(ShapeError, match="4 bits hold"):
        pack(QuantizedWeight(torch.full((2, 16), 100, dtype=torch.int8), torch.ones(2, 1), 4))
    with pytest.raises(UnknownNameError, match="spmm"):
        pack(normal(2, 3), "spmn")
    with pytest.raises(ShapeError, match="input_scale"):
        pack(quantize_weight(normal(2, 3)), input_scale=(0.0, 1))
    with pytest.raises(ShapeError, match="4 factors for the 3 inputs"):
        pack(quantize_weight(normal(2, 3)), "reference", input_scale=InputScale(0.1, 0, (1.0,) * 4))


def info(name: str, op: str, weights: str = "fp32", activations: str = "fp32", isa: str = "scalar") -> KernelInfo:
    return KernelInfo(name, op, isa, weights, activations, (1, 1, 1))


def test_candidates_are_of_the_types_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        info("d16", "dense16", "bf16", "bf16"), info("f16", "dense16", "bf16"), info("d8", "dense8", "int8", "int8"),
        info("d32", "dense32"), info("v", "spmv"), info("v2", "spmv", isa="avx2"), info("e16", "expand16", "bf16"),
    ]  # fmt: skip
    monkeypatch.setattr(native, "kernels", lambda: listed)
    full = torch.ones(4, 4)
    assert candidates(full, 1) == ["v2", "d32"] and candidates(full, 9) == ["d32"]
    assert candidates(full, 1, "bf16", "bf16") == ["d16"] and candidates(full, 1, "bf16") == ["f16"]
    assert candidates(torch.eye(4), 1, "bf16", "bf16") == ["d16", "e16"]  # floats where there are no rounded inputs
    assert candidates(full, 1, "int8") == [] and candidates(quantize_weight(full), 1, "int8", "int8") == ["d8"]
    assert candidates(quantize_weight(full, 8, 2), 1, "int8", "int8") == []
    listed[:] = [info("m-scalar-dense-x", "matvec4", "int4"), info("d8", "dense8", "int8", "int8")]
    assert candidates(quantize_weight(torch.ones(4, 32), 4, 16), 1, "int4") == ["m-scalar-dense-x"]
    cells = KernelInfo("block8-scalar-cell-x", "block8", "scalar", "int8", "int8", (1, 1, 1))
    listed[:] = [info("m-scalar-dense-x", "matvec", "int8", "int8"), cells]  # the first takes one scale a row
    assert candidates(quantize_weight(full, 8, 2), 1, "int8", "int8") == [cells.name]
    monkeypatch.setattr(native, "kernels", list)
    assert candidates(full, 1) == ["reference"]


def test_who_skips_columns_or_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        info(f"{op}-scalar-dense-{w}-{a}", op, w, a)
        for op in ("columns", "neurons") for w in ("fp32", "int8", "int4") for a in ("fp32", "int8")
    ]  # fmt: skip
    monkeypatch.setattr(native, "kernels", lambda: [*listed, info("spmv-scalar-dense", "spmv")])
    full = torch.ones(4, 64)
    assert selecting(full) == ["columns-scalar-dense-fp32-fp32"]
    assert selecting(full, rows=True) == ["neurons-scalar-dense-fp32-fp32"]
    assert selecting(full, "fp32", "int8") == ["columns-scalar-dense-fp32-int8"]
    for bits, group, names in ((8, None, 1), (8, 32, 0), (4, 32, 1), (4, 8, 0)):
        found = selecting(quantize_weight(full, bits, group), f"int{bits}")
        assert found == [f"columns-scalar-dense-int{bits}-fp32"][:names]


def test_rows_that_are_picked_and_what_is_refused() -> None:
    weight, x = normal(8, 48), normal(3, 96)[:, ::2]
    held = pack(weight, named("neurons", "fp32"))
    rows = torch.tensor([6, 0, 7, 0, 2, 0], dtype=torch.int32)[::2]
    want = torch.zeros(3, 8)
    want[:, [6, 7, 2]] = F.linear(x, weight)[:, [6, 7, 2]]
    torch.testing.assert_close(pick_rows(held, x, rows), want, **CLOSE)
    assert not pick_rows(held, x, rows[:0]).any()
    for row in (0, 7):
        assert pick_rows(held, x, torch.tensor([row], dtype=torch.int32))[:, row].all()
    for wrong in ([8], [-1], [0, 8], [-1, 7]):
        with pytest.raises(ShapeError, match=rf"rows span \[{min(wrong)}, {max(wrong)}\], outside \[0, 8\)"):
            pick_rows(held, x, torch.tensor(wrong, dtype=torch.int32))
    for wrong in (rows.long(), rows[None]):
        with pytest.raises(ShapeError, match="give int32 numbers of rows"):
            pick_rows(held, x, wrong)
    for wrong in (x[0], x[:, :47], x[None]):
        with pytest.raises(ShapeError, match=r"it must be \(tokens, 48\)"):
            pick_rows(held, wrong, rows)
    with pytest.raises(DTypeError, match="pick_rows"):
        pick_rows(held, x.double(), rows)
