"""What the fuzzer found: arguments that were taken and should not have been, and reads beyond an end."""

import subprocess
import sys
import textwrap

import pytest
import torch

from rarefy import ops
from rarefy.core.errors import DTypeError, EngineError, ShapeError, UnknownNameError
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.ops import Window, conv_across, conv_kernels, native

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")


def test_images_come_back_from_across_without_a_read_beyond_the_last():
    """The blocks end where a page does, and the next page cannot be read; in a process that may die of it."""
    program = """
        import ctypes, mmap, torch
        from rarefy.ops import conv_across
        for size in (1, 5, 17, 45, 64):
            x = torch.randn(3, 2, 1, size)
            across = conv_across.to_across(x)
            used = -(-across.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            memory = mmap.mmap(-1, used + mmap.PAGESIZE)
            start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + used), mmap.PAGESIZE, 0) == 0
            last = torch.frombuffer(memory, dtype=torch.float32, count=across.numel(), offset=used - across.nbytes)
            last.copy_(across.view(-1))
            assert torch.equal(conv_across.from_across(last.view(across.shape), 3), x)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


INT8 = [k.name for k in ops.kernels() if (k.weights, k.activations) == ("int8", "int8")]


@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_not_lost_in_bytes(name, bad):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 70, generator=generator), torch.randn(33, 70, generator=generator)
    packed = ops.pack(quantize_weight(weight), name)
    clean = torch.ops.rarefy.packed_linear(x, packed.handle, None, "none", 32)
    for token, place in ((0, 0), (20, 33), (32, 69)):
        broken = x.clone()
        broken[token, place] = bad
        got = torch.ops.rarefy.packed_linear(broken, packed.handle, None, "none", 32)
        rest = torch.arange(33) != token
        assert got[token].isnan().all() and torch.equal(got[rest], clean[rest])


@pytest.mark.parametrize("column", [-(2**63), -1, 2**31, 2**62])
def test_columns_beyond_32_bits_are_refused(column):
    columns = torch.tensor([0, column])
    with pytest.raises(ShapeError, match="columns span"):
        torch.ops.rarefy.csr_linear(torch.ones(1, 3), torch.ones(2), columns, torch.tensor([0, 2]), None, 1)


@pytest.mark.parametrize("size", [-1, 2**31, 2**40])
def test_feature_counts_that_make_no_sense(size):
    columns, offsets = torch.tensor([0]), torch.tensor([0, 1])
    with pytest.raises(ShapeError, match="out_features is"):
        torch.ops.rarefy.csr_linear(torch.ones(1, 3), torch.ones(1), columns, offsets, None, size)
    with pytest.raises(ShapeError, match="in_features is"):
        torch.ops.rarefy.csr_input_grad(torch.ones(1, 1), torch.ones(1), columns, offsets, size)


WINDOWS = [Window(stride=(0, 1)), Window(stride=(1, -1)), Window(padding=(-1, 0)), Window(dilation=(1, 2**31)),
           Window(padding=(2**40, 0)), Window(groups=0), Window(groups=2**31)]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_that_make_no_sense(window):
    for weight in (torch.ones(2, 1, 1, 1), torch.ones(0, 1, 1, 1)):
        with pytest.raises(ShapeError, match="makes no sense"):
            ops.pack_conv(weight, window)


@pytest.mark.parametrize("wrong", [{"stride": [0]}, {"kernel": [0]}, {"dilation": [-3]}, {"stride": [1, 2, 3]}])
def test_pooling_windows_that_make_no_sense(wrong):
    given = {"kernel": [2, 2], "stride": [2], "padding": [0], "dilation": [1], **wrong}
    with pytest.raises(ShapeError, match="max_pool2d"):
        torch.ops.rarefy.max_pool2d(torch.ones(1, 1, 8, 8), *given.values())


def test_a_negated_view_is_not_read_with_the_wrong_sign():
    opposite = torch.complex(torch.ones(3, 4), torch.ones(3, 4)).conj().imag
    with pytest.raises(DTypeError, match="resolve_neg"):
        ops.pack(opposite)
    assert torch.equal(ops.pack(opposite.resolve_neg().contiguous()).to_dense(), -torch.ones(3, 4))


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_that_no_kernel_may_see(bits):
    fine = torch.ones(2, 16, dtype=torch.int8)
    with pytest.raises(ShapeError, match="bits hold"):
        ops.pack(QuantizedWeight(fine * -128, torch.ones(2, 1), bits))
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ShapeError, match="not positive"):
            ops.pack(QuantizedWeight(fine, torch.full((2, 1), scale), bits))
    with pytest.raises(DTypeError, match="meta"):
        ops.pack(QuantizedWeight(fine.to("meta"), torch.ones(2, 1), bits))


@pytest.mark.parametrize("scale", [(0.0, 3), (-1.0, 3), (float("nan"), 3), (1e300, 3), (0.1, 256), (0.1, -1)])
def test_input_scales_that_make_no_sense(scale):
    with pytest.raises(ShapeError, match="input_scale"):
        ops.pack(quantize_weight(torch.ones(4, 4)), input_scale=scale)


@pytest.mark.parametrize("out", [0, 3])
def test_weights_without_rows_or_inputs_come_back(out):
    for group in (None, 4):
        weight = quantize_weight(torch.ones(out, 8), group=group)
        assert weight.dequantize().shape == (out, 8)
    assert ops.conv_candidates(torch.zeros(out, 0, 1, 1))


def test_input_gradients_are_asked_for_the_weights_own_inputs():
    packed = ops.pack(torch.ones(3, 5))
    assert torch.ops.rarefy.packed_input_grad(torch.ones(2, 3), packed.handle, 5).shape == (2, 5)
    with pytest.raises(ShapeError, match="in_features is 4"):
        torch.ops.rarefy.packed_input_grad(torch.ones(2, 3), packed.handle, 4)


def test_the_reference_takes_weights_without_output_channels():
    packed = ops.pack_conv(torch.ones(0, 3, 1, 5), kernel="reference")
    assert torch.ops.rarefy.packed_conv2d(torch.ones(2, 3, 4, 9), packed.handle, None, None, "relu").shape == (
        2,
        0,
        4,
        5,
    )


def test_a_scalar_has_no_rows_to_round():
    with pytest.raises(ShapeError, match="scalar"):
        torch.ops.rarefy.quantize_rows(torch.tensor(1.0))


def test_images_across_the_lanes_are_checked():
    packed = ops.pack_conv(torch.ones(2, 3, 1, 1), across=True)
    x = conv_across.to_across(torch.ones(5, 3, 4, 4))
    with pytest.raises(ShapeError, match="not \\(batch"):
        conv_across.to_across(torch.ones(5, 3, 4))
    with pytest.raises(ShapeError, match="out has shape"):
        conv_across.to_across(torch.ones(5, 3, 4, 4), torch.empty(1, 3, 4, 3, conv_across.lanes()))
    for batch in (-1, conv_across.lanes() + 1):
        with pytest.raises(ShapeError, match="batch is"):
            conv_across.from_across(x, batch)
    with pytest.raises(ShapeError, match="it must be"):
        conv_across.from_across(x[..., :3], 1)
    with pytest.raises(ShapeError, match="input channels"):
        conv_across.convolve_across(packed, x[:, :2], None, None, "none")
    with pytest.raises(ShapeError, match="input channels"):
        conv_across.convolve_across(ops.pack_conv(torch.ones(2, 3, 1, 1)), x, None, None, "none")
    with pytest.raises(ShapeError, match="residual"):
        conv_across.convolve_across(packed, x, None, x, "none")
    with pytest.raises(UnknownNameError):
        conv_across.convolve_across(packed, x, None, None, "tanh")


def test_only_kernels_with_the_right_vectors_go_across():
    x = conv_across.to_across(torch.ones(5, 3, 4, 4))
    narrow = [k.name for k in conv_kernels.kernels() if k.name not in conv_kernels.kernels_across()]
    for name in narrow:
        packed = ops.pack_conv(torch.ones(2, 3, 1, 1), kernel=name, across=True)
        with pytest.raises(EngineError, match="other vectors"):
            conv_across.convolve_across(packed, x, None, None, "none")
    assert native.module() is not None and conv_kernels.kernels_across()


def decoder_call(**other):
    """(decoder, arguments of a step of 2 texts and 3 tokens), some of them others."""
    from rarefy.ops import decoder

    torch.manual_seed(0)
    sizes = decoder.Sizes(16, 2, 1, 8)
    linear = lambda out, width: decoder.Linear(((1 << 30, ops.pack(torch.randn(out, width))),), None)  # noqa: E731
    norm = decoder.Norm(True, torch.ones(16), None, 1e-5)
    block = decoder.Block(norm, linear(32, 16), None, None, 0.3, linear(16, 16), norm, linear(48, 16), True, "silu",
                          linear(16, 24))  # fmt: skip
    made = decoder.NativeDecoder(sizes, torch.randn(20, 16), None, 0, [block], norm, linear(20, 16))
    keys, values = decoder.empty_cache(1, 2, sizes, 16)
    ids = torch.ones(2, 3, dtype=torch.int64)
    given = {"ids": ids, "positions": ids, "keys": keys, "values": values, "logits": torch.empty(2, 1, 20), **other}
    options = {name: given.pop(name) for name in ("rotary", "allowed", "first", "nanoseconds") if name in given}
    return made, (given["ids"], given["positions"], 0, (given["keys"], given["values"]), given["logits"]), options


def test_a_decoder_step_with_what_it_needs():
    made, arguments, options = decoder_call(rotary=(torch.ones(16, 4), torch.zeros(16, 4)))
    made.step(made.workspace(), *arguments, **options)
    assert arguments[-1].isfinite().all()


WRONG = {
    "ids": torch.ones(2, 3), "positions": torch.ones(2, 2, dtype=torch.int64), "keys": torch.empty(1, 2, 1, 1, 8, 8),
    "values": torch.empty(1, 2, 1, 16, 9), "logits": torch.empty(2, 3, 20), "allowed": torch.ones(2, 15).byte(),
    "first": torch.zeros(3, dtype=torch.int32), "nanoseconds": torch.zeros(3, dtype=torch.int64),
    "rotary": (torch.ones(16, 4), torch.ones(9, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_do_not_fit_a_decoder_are_refused(name):
    made, arguments, options = decoder_call(**{name: WRONG[name]})
    with pytest.raises((ShapeError, DTypeError), match=r"decoder: (sine|" + name + ")"):
        made.step(made.workspace(), *arguments, **options)


def test_a_weight_that_no_kernel_is_worth_it_for_is_refused_by_name():
    with pytest.raises(EngineError, match="no kernel is worth it for this int8 weight of shape"):
        ops.pack(quantize_weight(torch.ones(3, 6), group=2))
    assert ops.pack(quantize_weight(torch.ones(3, 6))).nnz == 18
