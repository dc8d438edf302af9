"""The path in plain torch, which runs where there is no native module: products against float64, refusals in words."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rarefy import ops
from rarefy.core.errors import DTypeError, EngineError, ShapeError
from rarefy.core.quantized import InputScale, QuantizedWeight, quantize_weight
from rarefy.ops import conv8, csr, native, reference
from rarefy.ops.conv_pool import Pool
from rarefy.ops.conv_reference import Window
from rarefy.ops.mapped import map_file, packed_bytes
from rarefy.ops.train import Layer, TrainIndex
from rarefy.ops.words import Words, words_of

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "module", lambda: None)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values, columns, row offsets) of what is not 0."""
    flat = weight.flatten(1)
    places = flat.nonzero()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (flat != 0).sum(1).cumsum(0)])
    return flat[flat != 0], places[:, 1], offsets


def pruned(*shape: int) -> torch.Tensor:
    weight = draw(*shape, seed=1)
    return weight * (draw(*shape, seed=2) > 0.5)


def test_compressed_rows(portable: None) -> None:
    weight, x, bias = pruned(7, 9), draw(2, 3, 9), draw(7, seed=3)
    values, columns, offsets = rows_of(weight)
    got = csr.linear(x, values, columns, offsets, bias, 7)
    torch.testing.assert_close(got.double(), F.linear(x.double(), weight.double(), bias.double()), **CLOSE)
    grad = draw(2, 3, 7, seed=4)
    torch.testing.assert_close(
        csr.input_grad(grad, values, columns, offsets, 9).double(), grad.double() @ weight.double(), **CLOSE
    )
    whole = grad.flatten(0, 1).double().T @ x.flatten(0, 1).double()
    torch.testing.assert_close(csr.sddmm(grad, x, columns, offsets).double(), whole[weight != 0], **CLOSE)


@pytest.mark.parametrize(
    ("columns", "offsets", "said"),
    [
        ([0, 9], [0, 1, 2], r"columns span \[0, 9\], outside \[0, 9\)"),
        ([0, 1], [0, 2, 1], "never fall"),
        ([0, 1], [1, 1, 2], "start at 0"),
    ],
)
def test_compressed_rows_that_make_no_sense(portable: None, columns: list[int], offsets: list[int], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        csr.linear(draw(1, 9), torch.ones(2), torch.tensor(columns), torch.tensor(offsets), None, 2)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Layer(6, (5, 1, 1)), (6, 5, 1, 1)),
        (Layer(6, (4, 7, 5), (3, 3), Window((2, 1), (1, 1), (1, 1), 2)), (6, 2, 3, 3)),
    ],
)
def test_products_of_training(portable: None, layer: Layer, shape: tuple[int, ...]) -> None:
    weight = pruned(*shape)
    values, columns, offsets = rows_of(weight)
    index = TrainIndex(layer, offsets, columns)
    assert index.nbytes == offsets.nbytes + 4 * columns.numel()
    x, bias = draw(3, *layer.image), draw(layer.out, seed=5)
    window = layer.window
    exact_x, exact_w = x.double().requires_grad_(), weight.double().requires_grad_()
    want = F.conv2d(exact_x, exact_w, bias.double(), window.stride, window.padding, window.dilation, window.groups)
    grad = draw(*want.shape, seed=6)
    want.backward(grad.double())
    torch.testing.assert_close(index.forward(values, x, bias).double(), want.detach(), **CLOSE)
    assert exact_x.grad is not None and exact_w.grad is not None
    torch.testing.assert_close(index.input_grad(values, grad).double(), exact_x.grad, **CLOSE)
    torch.testing.assert_close(index.weight_grad(grad, x).double(), exact_w.grad[weight != 0], **CLOSE)


def test_training_refuses_what_does_not_fit(portable: None) -> None:
    values, columns, offsets = rows_of(pruned(6, 5))
    index = TrainIndex(Layer(6, (5, 1, 1)), offsets, columns)
    with pytest.raises(ShapeError, match=r"x has shape \(3, 4, 1, 1\)"):
        index.forward(values, draw(3, 4, 1, 1))
    with pytest.raises(ShapeError, match=r"values have shape \(1,\)"):
        index.forward(torch.ones(1), draw(3, 5, 1, 1))
    with pytest.raises(ShapeError, match="grad is of 2 images and x of 3"):
        index.weight_grad(draw(2, 6, 1, 1), draw(3, 5, 1, 1))
    with pytest.raises(ShapeError, match="outside"):
        TrainIndex(Layer(6, (2, 1, 1)), offsets, columns)
    for layer, said in (
        (Layer(5, (4, 8, 8), (3, 3), Window(groups=2)), "multiples of groups=2"),
        (Layer(5, (4, 8, 8), (2000, 3)), "each side must be in"),
        (Layer(5, (4, 2, 2), (3, 3)), "use larger images or more padding"),
    ):
        with pytest.raises(ShapeError, match=said):
            TrainIndex(layer, torch.zeros(6, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def test_a_packed_weight_is_a_dense_one(portable: None) -> None:
    weight, x, bias = pruned(6, 8), draw(3, 8), draw(6, seed=3)
    assert ops.candidates(weight, 1) == ["reference"] and ops.kernels() == [] and conv8.kernels() == []
    packed = ops.pack(weight)
    assert packed.kernel == "reference" and packed.nnz == int(weight.count_nonzero())
    assert torch.equal(packed.to_dense(), weight)
    want = F.silu(F.linear(x.double(), weight.double(), bias.double()))
    torch.testing.assert_close(packed.multiply(x, bias, "silu").double(), want, **CLOSE)
    with pytest.raises(EngineError, match="kernel 'spmv-avx2-index' is native"):
        ops.pack(weight, "spmv-avx2-index")


def test_a_quantized_weight_undoes_its_factors(portable: None) -> None:
    factors = torch.tensor([0.5, 2.0, 4.0, 0.25])
    weight = draw(5, 4)
    codes = quantize_weight(weight * factors)
    packed = ops.pack(codes, input_scale=InputScale(0.1, 3, tuple(factors.tolist())))
    torch.testing.assert_close(packed.to_dense(), codes.dequantize() / factors)
    x = draw(2, 4)
    torch.testing.assert_close(packed.multiply(x, None, "none"), x @ (codes.dequantize() / factors).T)


def test_the_largest_of_windows(portable: None) -> None:
    x = draw(2, 3, 9, 7)
    window = Pool((3, 2), (2, 1), (1, 0), (1, 2), True)
    want = F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True)
    assert torch.equal(window.largest(x), want)
    room = torch.empty_like(want)
    assert window.largest(x, room) is room and torch.equal(room, want)


def test_what_is_native_only_says_so(portable: None, tmp_path: Path) -> None:
    for call in (
        lambda: words_of(draw(1, 3, 4, 4)),
        lambda: conv8.pack_conv8(draw(4, 3, 3, 3), Window()),
        lambda: map_file(tmp_path / "packed"),
    ):
        with pytest.raises(EngineError, match="native"):
            call()
    with pytest.raises(EngineError, match="no packed form"):
        packed_bytes(ops.pack(torch.eye(3)))


def test_words_stand_for_floats(portable: None) -> None:
    codes = torch.arange(2 * 2 * 3 * 4, dtype=torch.uint8).view(1, 2, 2, 3, 4)
    words = Words(codes, 7, torch.tensor([0.5]), torch.tensor([3], dtype=torch.int32))
    got = words.floats()
    assert got.shape == (1, 7, 2, 3)
    assert float(got[0, 5, 1, 2]) == (int(codes[0, 1, 1, 2, 1]) - 3) * 0.5
    one, three = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(DTypeError, match="uint8, float32 and int32"):
        Words(codes.int(), 7, one, three)
    with pytest.raises(ShapeError, match=r"must be \(batch, 3, height"):
        Words(codes, 9, one, three)
    with pytest.raises(ShapeError, match="scale"):
        Words(codes, 7, torch.ones(2), three)
    with pytest.raises(ShapeError, match="contiguous"):
        Words(codes.transpose(2, 3), 7, one, three)
    with pytest.raises(ShapeError, match="batch, channels"):
        words_of(draw(3, 4, 4))


@pytest.mark.parametrize(
    ("shape", "window", "said"),
    [
        ((4, 3, 3), Window(), r"\(4, 3, 3\)"),
        ((4, 3, 3, 3), Window((0, 1)), "makes no sense"),
        ((5, 3, 3, 3), Window(groups=2), "groups=2"),
    ],
)
def test_8_bit_convolutions_are_checked_first(shape: tuple[int, ...], window: Window, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        conv8.pack_conv8(draw(*shape), window)


def test_quantized_weights_are_checked() -> None:
    codes, scale = torch.full((2, 4), 100, dtype=torch.int8), torch.ones(2, 1)
    for weight, error, said in (
        (QuantizedWeight(codes.to_sparse(), scale, 8), DTypeError, "quantize a dense CPU weight"),
        (QuantizedWeight(codes, scale, 4), ShapeError, r"span \[100, 100\], but 4 bits hold"),
        (QuantizedWeight(codes, -scale, 8), ShapeError, "positive and finite"),
    ):
        with pytest.raises(error, match=said):
            ops.pack(weight)


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_gradients_of_activations(activation: str) -> None:
    before = draw(50).double().requires_grad_()
    grad = draw(50, seed=1).double()
    reference.ACTIVATIONS[activation](before).backward(grad)
    got = reference.activation_gradient(grad, before.detach(), activation)
    assert before.grad is not None
    torch.testing.assert_close(got, before.grad)
