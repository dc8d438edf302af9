"""Integers in a file: exact round trips, the bytes that the formula says, and refusals of what is damaged."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rarefy.core.bits import pack_bits
from rarefy.core.errors import FileError
from rarefy.core.grid import Grid, QuantizeSpec, fit_scales, tidy
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.formats.code_parts import Parts
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


def test_nothing_is_left_out_where_that_takes_more_bytes() -> None:
    parts = pack(Codes((4, 32), rounded(4, 32, 8, None, zeros("none", 4, 32))))
    assert parts["form"].tolist() == [8, 0, 1, 0, 0, 4, 4, 32]
    assert parts["codes"].numel() == 128 and parts["present"].numel() == 0


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


def laid_out(values: Tensor, bits: int, unit: int, scale: Tensor) -> Parts:
    """Parts of integers in units that we choose."""
    rows, width = values.shape
    kept, present = values.reshape(-1), torch.empty(0, dtype=torch.uint8)
    if unit:
        units = torch.nn.functional.pad(values, (0, -width % unit)).reshape(rows, -1, unit)
        there = units.ne(0).any(-1)
        kept, present = units[there].reshape(-1), pack_bits(there)
    held = kept.view(torch.uint8)
    if bits == 4:
        pairs = (torch.nn.functional.pad(kept, (0, len(kept) % 2)).view(torch.uint8) & 15).view(-1, 2)
        held = pairs[:, 0] | pairs[:, 1] << 4
    return Parts(rows, width, bits, unit, scale.shape[1], held, scale[scale != 1], present, "w")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("unit", [0, 1, 16])
def test_any_rows_are_expanded_by_themselves(unit: int, bits: int) -> None:
    q = rounded(7, 37, bits, None, zeros("groups" if unit == 16 else "half", 7, 37))
    parts = laid_out(q.values, bits, unit, q.scale)
    there = torch.nn.functional.pad(q.values, (0, -37 % max(1, unit))).reshape(7, -1, max(1, unit)).ne(0).any(-1)
    held = [37 if unit == 0 else int(row.sum()) * unit for row in there]
    for begin in range(7):
        for end in range(begin, 8):
            assert torch.equal(parts.values(begin, end, sum(held[:begin])), q.values[begin:end])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("width", "unit"), [(300_000, 1), (300_000, 16), (300_000, 0), (2**20 + 16, 16)])
def test_groups_are_counted_over_many_rows(width: int, unit: int, bits: int) -> None:
    """Three rows of 300,000 are counted at a time, one where it is longer than what is taken at a time."""
    values = torch.zeros(8 if width < 2**20 else 3, width, dtype=torch.int8)
    values[::2, :4801] = (torch.arange(4801) % 5 == 0).to(torch.int8)
    values[1, -3:], values[-1, 16:32] = -5, 3
    q = tidy(QuantizedWeight(values, torch.full((len(values), width // 16), 0.5), bits))
    parts = laid_out(values, bits, unit, q.scale)
    assert parts.filled() == len(parts.scale) == int(values.view(len(values), -1, 16).ne(0).any(-1).sum())
    assert torch.equal(parts.quantized().values, values)


def test_a_form_is_refused_for_its_own_reason() -> None:
    parts = pack(Codes((6, 48), rounded(6, 48, 4, 16, zeros("half", 6, 48) & (torch.arange(48) % 16 < 4))))
    form = parts["form"].tolist()
    assert form == [4, 1, 3, 0, 0, 6, 6, 48]

    def refused(wrong: list[int], why: str, dtype: torch.dtype = torch.int64) -> None:
        with pytest.raises(FileError, match=rf"tensor 'fc\.weight': {why}"):
            unpack(parts | {"form": torch.tensor(wrong, dtype=dtype)}, "fc.weight")

    refused(form, "bad form", torch.int32)
    refused([form, form], "bad form")
    refused(form[:7], "bad form")
    refused([*form, 1, 1, 1, 1, 1, 1, 1], "bad form")
    assert unpack(parts | {"form": torch.tensor([*form[:6], 6, 48, 1, 1, 1, 1, 1, 1])}).to_dense().dim() == 8
    for index, value in ((0, 5), (1, 7), (3, 2), (4, -1), (4, 4), (6, -1)):
        refused([*form[:index], value, *form[index + 1 :]], "its form .* makes no sense")
    refused([4, 1, 3, 0, 0, -1, -1, -48], "its form .* makes no sense")
    refused([4, 1, 3, 0, 0, 5, 6, 48], "its rows differ")
    refused([4, 1, 3, 1, 0, 6, 6, 48], "its rows differ")
    refused([4, 1, 3, 1, 0, 6, 48, 6, 1], "its rows differ")
    for groups in (0, 5, 49, 96):
        refused([4, 1, groups, 0, 0, 6, 6, 48], f"{groups} scales a row do not fit")


def test_bits_and_scales_are_refused_for_their_own_reason() -> None:
    parts = pack(Codes((6, 40), rounded(6, 40, 4, None, zeros("half", 6, 40) & (torch.arange(40) < 9))))
    present, scale = parts["present"], parts["scale"].float()
    assert parts["form"].tolist() == [4, 1, 1, 0, 0, 6, 6, 40] and present.shape == (6, 5)
    whole = pack(Codes((6, 38), rounded(6, 38, 8, None, zeros("none", 6, 38))))
    odd = pack(Codes((6, 37), rounded(6, 37, 4, None, zeros("half", 6, 37) & (torch.arange(37) < 9))))
    for given, part, wrong, why in (
        (parts, "present", present.to(torch.int32), "bits of shape"),
        (parts, "present", present.reshape(5, 6), "bits of shape"),
        (parts, "present", present[:, :4], "bits of shape"),
        (whole, "present", present, "bits are stored where all integers are"),
        (odd, "present", odd["present"] | torch.tensor([0, 0, 0, 0, 0x80], dtype=torch.uint8), "padding bits are set"),
        (parts, "codes", parts["codes"][1:], "bytes are no"),
        (parts, "codes", parts["codes"].to(torch.int8), "bytes are no"),
        (parts, "codes", parts["codes"][None], "bytes are no"),
        (parts, "codes", parts["codes"] & 0xF0 | 8, "an integer is below -7"),
        (parts, "codes", parts["codes"] & 0x0F | 0x80, "an integer is below -7"),
        (whole, "codes", torch.full_like(whole["codes"], 0x80), "an integer is below -127"),
        (parts, "scale", scale.double(), "scales of shape"),
        (parts, "scale", scale[None], "scales of shape"),
        (parts, "scale", torch.ones(7), "scales of shape"),
        (parts, "scale", scale * torch.tensor([1, 1, 0, 1, 1, 1])[: len(scale)], "a scale is not positive"),
        (parts, "scale", scale / 0.0, "a scale is not positive"),
    ):
        with pytest.raises(FileError, match=rf"tensor 'fc\.weight': .*{why}"):
            unpack(given | {part: wrong}, "fc.weight")


def test_a_weight_of_nothing_in_any_unit() -> None:
    none = torch.empty(0, dtype=torch.uint8)
    parts = {"codes": none, "scale": torch.ones(0), "present": torch.zeros(4, 0, dtype=torch.uint8)}
    assert unpack(parts | {"form": torch.tensor([8, 16, 1, 0, 0, 4, 4, 0])}).to_dense().shape == (4, 0)
    with pytest.raises(FileError, match="2 scales a row do not fit"):
        unpack(parts | {"form": torch.tensor([8, 16, 2, 0, 0, 4, 4, 0])})


def test_sizes_are_taken_up_to_their_bounds() -> None:
    """A row of 2^22 integers, and 2^48 of them; what is larger is refused before anything of that size is made."""
    none = torch.empty(0, dtype=torch.uint8)

    def given(rows: int, *shape: int, unit: int = 0, present: Tensor = none) -> dict[str, Tensor]:
        form = torch.tensor([8, unit, 1, 0, 0, rows, *shape])
        return {"codes": none, "scale": torch.ones(0), "present": present, "form": form}

    assert unpack(given(1, 1, 2**22, unit=16, present=torch.zeros(1, 2**15, dtype=torch.uint8))).shape == (1, 2**22)
    for wrong, why in (
        (given(1, 1, 2**22 + 1), "is too large"),
        (given(2**22 + 1, 2**22 + 1, 0), "is too large"),
        (given(2**26, 2**26, 2**22), "0 bytes are no"),
        (given(2**26 + 1, 2**26 + 1, 2**22), "makes no sense"),
    ):
        with pytest.raises(FileError, match=why):
            unpack(wrong)
    assert unpack(given(2**22, 2**22, 0)).shape == (2**22, 0)


@pytest.mark.parametrize(("units", "groups"), [(0, 0), (3, 1)])
def test_scales_of_much_that_is_not_stored_are_counted_when_it_is_expanded(units: int, groups: int) -> None:
    """At reading, up to 16 integers for each number that is stored and 2^24 more."""
    present = torch.zeros(5, 2**15, dtype=torch.uint8)
    present[0, 0] = 2**units - 1
    held = torch.ones(16 * units, dtype=torch.uint8)
    form = torch.tensor([8, 16, 2**16, 0, 0, 5, 5, 2**22])
    most = (5 * 2**22 - 2**24) // 16 - present.numel() - held.numel()
    parts = {"codes": held, "present": present, "form": form}
    with pytest.raises(FileError, match=f"{most} scales are stored for {groups} groups"):
        unpack(parts | {"scale": torch.ones(most)})
    later = unpack(parts | {"scale": torch.ones(most - 1)})
    with pytest.raises(FileError, match=f"{most - 1} scales are stored for {groups} groups"):
        later.quantized.dequantize()


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


@pytest.mark.parametrize("byte", [0x80, 0x81, 0x8F, 0x08, 0x18, 0xF8])
def test_the_least_of_four_bits_is_refused_beside_any_other(byte: int) -> None:
    q = QuantizedWeight(torch.ones(1, 16, dtype=torch.int8), torch.ones(1, 1), 4)
    parts = pack(Codes((1, 16), q))
    codes = parts["codes"].clone()
    codes[3] = byte
    with pytest.raises(FileError, match="an integer is below -7"):
        unpack({**parts, "codes": codes})
    codes[3] = byte & 0x77
    assert unpack({**parts, "codes": codes}).quantized.values.abs().max() <= 7


def test_rows_are_those_of_the_shape_unless_said_otherwise() -> None:
    q = QuantizedWeight(torch.arange(6, dtype=torch.int8).view(2, 3), torch.ones(2, 1), 8)
    assert torch.equal(Codes((2, 3), q).to_dense(), torch.arange(6.0).view(2, 3))
