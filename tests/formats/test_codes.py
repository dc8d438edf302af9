"""Integers in a file: exact round trips, the bytes that the formula says, and refusals of what is damaged."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.core.grid import Grid, QuantizeSpec, fit_scales, tidy
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.formats.codes import PARTS, Codes, code_bytes, pack, stored_bytes, unpack
from rarefy.formats.container import prepare, read_file, write


def rounded(rows: int, width: int, bits: int, group: int | None, keep: Tensor) -> QuantizedWeight:
    weight = torch.randn(rows, width)
    return tidy(Grid(fit_scales(weight, keep, QuantizeSpec(bits, group)), bits).round(weight * keep))


def zeros(kind: str, rows: int, width: int) -> Tensor:
    if kind == "groups":
        return (torch.rand(rows, -(-width // 16)) < 0.5).repeat_interleave(16, 1)[:, :width]
    return torch.rand(rows, width) < {"none": 2.0, "half": 0.5, "most": 0.1, "all": 0.0}[kind]


CASES = [
    (rows, width, group)
    for rows, width, group in ((5, 48, 16), (3, 32, None), (7, 37, None), (1, 16, 16), (4, 0, None))
]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["none", "half", "most", "all", "groups"])
@pytest.mark.parametrize(("rows", "width", "group"), CASES)
def test_round_trip_and_formula(rows: int, width: int, group: int | None, kind: str, bits: int) -> None:
    keep = zeros(kind, rows, width)
    q = rounded(rows, width, bits, group, keep)
    parts = pack(Codes((rows, width), q))
    back = unpack(parts)
    assert torch.equal(back.quantized.values, q.values) and torch.equal(back.quantized.scale, q.scale)
    assert back.quantized.bits == bits and torch.equal(back.to_dense(), q.dequantize())
    assert sum(t.nbytes for t in parts.values()) == stored_bytes(q)


def test_shapes_types_and_transposed_weights_come_back() -> None:
    q = rounded(6, 24, 8, None, zeros("half", 6, 24))
    for shape, transposed, dtype in (((6, 6, 2, 2), False, torch.float16), ((24, 6), True, torch.bfloat16)):
        back = unpack(pack(Codes(shape, q, transposed, dtype)))
        dense = back.to_dense()
        assert dense.shape == shape and dense.dtype == dtype
        assert torch.equal(
            dense.t().float() if transposed else dense.reshape(6, 24).float(), q.dequantize().to(dtype).float()
        )


def test_the_formula_of_group_sparse_int4() -> None:
    """Half of the groups of 16: per weight 4 bits and a share of a scale of 16 where it is there, and a bit a group."""
    keep = torch.zeros(64, 16, dtype=torch.bool)
    keep[:, ::2] = True
    q = rounded(64, 256, 4, 16, keep.repeat_interleave(16, 1))
    assert stored_bytes(q) == code_bytes(64, 256, 512, 16, 512, 4) == 512 * (8 + 2) + 64 * 2 + 64
    assert stored_bytes(q) < 0.53 * stored_bytes(rounded(64, 256, 4, 16, torch.ones(64, 256).bool()))


def test_scales_of_other_origin_keep_all_their_bits() -> None:
    q = quantize_weight(torch.randn(5, 16), 8)
    assert torch.equal(unpack(pack(Codes((5, 16), q))).quantized.scale, q.scale)


def damaged(parts: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    form = parts["form"]

    def with_form(index: int, value: int) -> dict[str, Tensor]:
        changed = form.clone()
        changed[index] = value
        return {**parts, "form": changed}

    return {
        **{
            f"form {i} {v}": with_form(i, v)
            for i, v in ((0, 5), (1, 7), (2, 5), (3, 2), (3, 1), (4, 9), (5, 9), (6, -1))
        },
        "form 6 huge": with_form(6, 2**60),
        "codes": {**parts, "codes": parts["codes"][:-1]},
        "code type": {**parts, "codes": parts["codes"].to(torch.int32)},
        "code range": {**parts, "codes": torch.full_like(parts["codes"], 0x88)},
        "bits": {**parts, "present": parts["present"].flip(0) ^ 1},
        "padding": {**parts, "present": parts["present"] | 0x80},
        "scale sign": {**parts, "scale": -parts["scale"]},
        "scale count": {**parts, "scale": parts["scale"][1:]},
        "scale nan": {**parts, "scale": parts["scale"] * float("nan")},
        **{f"no {part}": {k: v for k, v in parts.items() if k != part} for part in PARTS},
    }


def test_damaged_parts_are_refused_by_name() -> None:
    q = rounded(6, 48, 4, 16, zeros("half", 6, 48) & (torch.arange(48) % 16 < 4))
    parts = pack(Codes((6, 48), q))
    assert parts["present"].numel() and parts["form"][1] == 1
    for wrong in damaged(parts).values():
        with pytest.raises(FileError, match=r"tensor 'fc\.weight'"):
            unpack(wrong, "fc.weight")


def test_a_file_holds_them_beside_other_tensors_and_notices_any_change(tmp_path) -> None:
    q = rounded(32, 64, 4, 16, zeros("half", 32, 64))
    tensors = {"fc.weight": q.dequantize(), "fc.bias": torch.randn(32), "fc.scale": torch.randn(3)}
    prepared = prepare(tensors, codes={"fc.weight": Codes((32, 64), q)})
    record = next(t for t in prepared.stored if t.name == "fc.weight")
    assert record.encoding == "int4" and record.file_bytes == stored_bytes(q) < record.dense_bytes / 6
    write(tmp_path / "m.safetensors", prepared)
    back = read_file(tmp_path / "m.safetensors").tensors
    assert set(back) == set(tensors)
    assert isinstance(back["fc.weight"], Codes)
    assert torch.equal(back["fc.weight"].quantized.values, q.values)
    assert torch.equal(back["fc.scale"], tensors["fc.scale"])
    raw = bytearray((tmp_path / "m.safetensors").read_bytes())
    raw[-5] ^= 1
    (tmp_path / "m.safetensors").write_bytes(raw)
    with pytest.raises(FileError):
        read_file(tmp_path / "m.safetensors")


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_small_file_of_a_large_weight_of_zeros_is_read_in_little_memory() -> None:
    """A bit stands for 16 integers: 256 kB of them are 32 MB of zeros, which nobody has asked for yet."""
    present = torch.zeros(256, 2**10, dtype=torch.uint8)
    form = torch.tensor([8, 16, 1, 0, 0, 256, 256, 2**17])
    parts = {"codes": present[:0, 0], "scale": torch.ones(0), "present": present, "form": form}
    unpack(parts)

    def status(name: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    found = unpack(parts)
    assert status("VmHWM") - before < 2**24
    assert found.quantized.values.shape == (256, 2**17)
    with pytest.raises(FileError, match=r"'fc\.weight': 1 scales are stored for 0 groups"):
        unpack(parts | {"scale": torch.ones(1)}, "fc.weight").to_dense()
    for wrong in ([8, 16, 1, 0, 0, 1, 1, 2**25], [8, 16, 2**40, 0, 0, 4, 4, 0], [8, 0, 1, 0, 0, 2**40, 2**40, 0]):
        with pytest.raises(FileError, match=r"tensor 'fc\.weight'"):
            unpack(parts | {"form": torch.tensor(wrong)}, "fc.weight")
