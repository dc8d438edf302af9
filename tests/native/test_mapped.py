"""Packed weights as bytes: seen in a mapped file they compute the same bits, and bytes that are wrong are refused."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from oracle import normal, sparse

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.ops import conv_kernels
from rarefy.patterns.grouped_nm import all_ways

KERNELS = {kernel.name: kernel for kernel in ops.kernels()}
CONVS = {kernel.name: kernel for kernel in conv_kernels.kernels()}
every_kernel = pytest.mark.parametrize("name", KERNELS)

if not KERNELS:
    pytest.skip("needs the native module", allow_module_level=True)


def packed_for(name: str, out: int = 52, width: int = 192, scale: tuple[float, int] | None = None) -> ops.PackedWeight:
    """A weight of the kind that the kernel holds."""
    plain = sparse(out, width, 0.4)
    stored = [plain, quantize_weight(plain), *(quantize_weight(plain, 4, group) for group in (16, 32))]
    in_ways = normal(out, width).abs().add(0.5) * all_ways(2, 4).reshape(-1).repeat(width // 24)
    for weight in (*stored, in_ways, quantize_weight(in_ways)):
        try:
            return ops.pack(weight, name, input_scale=scale)
        except ValueError:
            continue
    raise AssertionError(f"no weight for {name}")


def file_of(folder: Path, *parts: torch.Tensor, before: int = 128) -> Path:
    path = folder / "weights"
    path.write_bytes(bytes(before) + b"".join(part.numpy().tobytes() for part in parts))
    return path


def seen(path: Path, packed: ops.PackedWeight, size: int, at: int = 128) -> ops.PackedWeight:
    file = ops.map_file(path)
    return ops.see(file, at, size, packed.shape, packed.kernel, input_scale=packed.input_scale)


@every_kernel
@pytest.mark.parametrize("scale", [None, (0.04, 120)])
def test_what_is_seen_computes_the_same_bits(name: str, scale: tuple[float, int] | None, tmp_path: Path) -> None:
    packed = packed_for(name, scale=scale)
    raw = ops.packed_bytes(packed)
    twin = seen(file_of(tmp_path, raw), packed, raw.numel())
    assert (twin.nnz, twin.nbytes, twin.shape, twin.kernel) == (packed.nnz, packed.nbytes, packed.shape, name)
    assert torch.equal(twin.to_dense(), packed.to_dense())
    for tokens in (1, 5, 33):
        x, bias = normal(tokens, 192, seed=tokens), normal(52)
        assert torch.equal(twin.multiply(x, bias, "gelu"), packed.multiply(x, bias, "gelu"))
    assert torch.equal(ops.packed_bytes(twin), raw)
    assert packed.nbytes <= raw.numel() <= packed.nbytes + 2048  # little besides


@every_kernel
@pytest.mark.parametrize("shape", [(0, 48), (3, 0)])
def test_empty_weights_too(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    bits = {"int8": 8, "int4": 4}.get(KERNELS[name].weights)
    empty = QuantizedWeight(torch.zeros(shape, dtype=torch.int8), torch.ones(shape[0], 1), bits or 8)
    try:
        packed = ops.pack(torch.zeros(shape) if bits is None else empty, name)
    except ValueError:
        pytest.skip("the kernel has no form for it")
    raw = ops.packed_bytes(packed)
    twin = seen(file_of(tmp_path, raw), packed, raw.numel())
    x = normal(2, shape[1])
    assert torch.equal(twin.multiply(x, None, "none"), packed.multiply(x, None, "none"))


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("across", [False, True])
def test_convolutions_too(name: str, across: bool, tmp_path: Path) -> None:
    window = ops.Window((2, 1), (1, 2), (1, 2))
    weight = normal(21, 9, 3, 2) * (normal(21, 9, 3, 2, seed=1) > 0.3)
    packed = ops.pack_conv(weight, window, name, across=across)
    raw = ops.packed_bytes(packed)
    file, shape = ops.map_file(file_of(tmp_path, raw)), packed.shape
    twin = ops.see_conv(file, 128, raw.numel(), shape, window, name, across)
    assert torch.equal(twin.to_dense(), weight)
    assert (twin.nnz, twin.nbytes) == (packed.nnz, packed.nbytes)
    if not across:
        x = normal(2, 9, 11, 10)
        assert torch.equal(twin.convolve(x, None, None, "relu"), packed.convolve(x, None, None, "relu"))
    for other in (ops.Window((1, 1), (1, 2), (1, 2)), ops.Window((2, 1), (1, 2), (1, 1))):
        with pytest.raises(ValueError, match="another size or window"):
            ops.see_conv(file, 128, raw.numel(), shape, other, name, across)
    with pytest.raises(ValueError, match="another size or window"):
        ops.see_conv(file, 128, raw.numel(), (21, 8, 3, 2), window, name, across)


@every_kernel
def test_a_change_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    packed = packed_for(name)
    raw = ops.packed_bytes(packed)
    for at in [*range(0, 128, 7), *torch.linspace(128, raw.numel() - 1, 40).long().tolist()]:
        altered = raw.clone()
        altered[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match="pack the weight again"):
            seen(file_of(tmp_path, altered), packed, raw.numel())


def test_bytes_that_are_cut_off_or_run_on_are_refused(tmp_path: Path) -> None:
    packed = packed_for(next(iter(KERNELS)))
    raw = ops.packed_bytes(packed)
    path = file_of(tmp_path, raw, torch.zeros(64, dtype=torch.uint8))
    for size in (0, 63, 64, 128, raw.numel() - 64, raw.numel() + 64):
        with pytest.raises(ValueError, match="packed bytes"):
            seen(path, packed, size)
    with pytest.raises(ValueError, match="are not among its"):
        seen(path, packed, raw.numel() + 65)
    with pytest.raises(ValueError, match="are not among its"):
        seen(path, packed, raw.numel(), at=2**62)
    with pytest.raises(ValueError, match="cache line"):
        seen(path, packed, raw.numel(), at=129)


def test_the_file_is_asked_for_what_it_holds(tmp_path: Path) -> None:
    same = [name for name, kernel in KERNELS.items() if (kernel.op, kernel.isa) == ("spmm", "scalar")]
    packed = packed_for(same[0])
    raw = ops.packed_bytes(packed)
    file = ops.map_file(file_of(tmp_path, raw))
    with pytest.raises(ValueError, match="not for kernel"):
        ops.see(file, 128, raw.numel(), packed.shape, next(name for name in KERNELS if name != same[0]))
    for shape in ((52, 191), (51, 192), (192, 52)):
        with pytest.raises(ValueError, match="was asked for"):
            ops.see(file, 128, raw.numel(), shape, same[0])
    with pytest.raises(OSError, match="cannot be mapped"):
        ops.map_file(tmp_path / "nowhere")


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_and_pickles_compute_the_same_when_the_first_is_gone(way, tmp_path: Path) -> None:
    weight = sparse(24, 48, 0.3)
    packed = ops.pack(weight)
    raw = ops.packed_bytes(packed)
    twin = seen(file_of(tmp_path, raw), packed, raw.numel())
    (tmp_path / "weights").unlink()  # the pages stay as long as somebody has them
    other, x = way(twin), normal(4, 48)
    expected, handle = twin.multiply(x, None, "none"), twin.handle
    del twin
    assert torch.equal(other.multiply(x, None, "none"), expected)
    assert other.handle != handle


def test_a_pickle_asks_the_source(tmp_path: Path) -> None:
    quantized = quantize_weight(sparse(24, 48, 0.3))
    kernel = next(name for name, known in KERNELS.items() if known.weights == "int8")
    packed = ops.pack(quantized, kernel)
    raw = ops.packed_bytes(packed)
    file = ops.map_file(file_of(tmp_path, raw))
    twin = ops.see(file, 128, raw.numel(), (24, 48), kernel, source=lambda: quantized)
    back = pickle.loads(pickle.dumps(twin))
    assert torch.equal(back.quantized.values, quantized.values)
    assert torch.equal(back.to_dense(), packed.to_dense())
