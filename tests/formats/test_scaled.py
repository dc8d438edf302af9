"""Quantised weights with their scales beside them, sparse or dense."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats import bitmask, read
from rarefy.formats.packed import Packed
from rarefy.formats.scaled import Scaled, fold

STORED = torch.tensor([[0, 4, -3, 0], [127, 0, 0, -128]], dtype=torch.int8)
SCALES = {
    "tensor": (torch.tensor([0.5]), [[0, 2, -1.5, 0], [63.5, 0, 0, -64]]),
    "scalar": (torch.tensor(0.5), [[0, 2, -1.5, 0], [63.5, 0, 0, -64]]),
    "row": (torch.tensor([[0.5], [2.0]]), [[0, 2, -1.5, 0], [254, 0, 0, -256]]),
    "group": (torch.tensor([[0.5, 1], [2, 4]]), [[0, 2, -3, 0], [254, 0, 0, -512]]),
    "block": (torch.tensor([[0.5, 1.0]]), [[0, 2, -3, 0], [63.5, 0, 0, -128]]),
}


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("sparse", [False, True])
def test_every_kind_of_scale(tmp_path, kind, sparse) -> None:
    scale, expected = SCALES[kind]
    parts = bitmask.pack(Packed.from_dense(STORED))
    stored = {f"l.{name}": part for name, part in parts.items()} if sparse else {"l.weight": STORED}
    save_file(stored | {"l.weight_scale": scale, "l.input_scale": torch.ones(1)}, tmp_path / "m.safetensors")
    found = read(tmp_path / "m.safetensors")
    assert found.keys() == {"l.weight"}
    weight = found["l.weight"]
    assert isinstance(weight, Scaled) and weight.shape == (2, 4) and weight.dtype == torch.float32
    assert weight.to_dense().tolist() == expected
    assert not torch.signbit(weight.to_dense()[STORED == 0]).any()
    assert weight.input_scale is not None and isinstance(weight.stored, Packed) == sparse


def test_eight_bit_floats_zero_points_and_columns_out_of_order() -> None:
    stored = torch.tensor([[0.0, 448.0]]).to(torch.float8_e4m3fn)
    found = fold({"l.weight": stored, "l.weight_scale": torch.tensor([[0.5]], dtype=torch.bfloat16)})
    assert found["l.weight"].to_dense().dtype == torch.bfloat16
    assert found["l.weight"].to_dense().tolist() == [[0.0, 224.0]]
    wide = torch.tensor([[-0.0, 57344.0]]).to(torch.float8_e5m2)
    assert fold({"l.weight": wide, "l.weight_scale": torch.tensor([0.5])})["l.weight"].to_dense().tolist() == [
        [0, 28672]
    ]
    entries = {"l.weight": STORED, "l.weight_scale": SCALES["group"][0]}
    order = {"l.weight_g_idx": torch.tensor([1, 0, 0, 1])}
    assert fold(entries | order)["l.weight"].to_dense().tolist() == [[0, 2, -1.5, 0], [508, 0, 0, -512]]
    zero = {"l.weight_zero_point": torch.tensor([[1, 0], [0, -1]], dtype=torch.int8)}
    assert fold(entries | zero)["l.weight"].to_dense().tolist() == [[-0.5, 1.5, -3, 0], [254, 0, 4, -508]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float8_e4m3fnuz, torch.bool])
def test_numbers_that_are_no_known_layout_never_pass_for_weights(dtype) -> None:
    entries = {"l.weight": torch.ones(2, 4).to(dtype), "l.weight_scale": torch.ones(2, 1)}
    with pytest.raises(FileError, match=rf"'l\.weight': {dtype} with scales beside it .* dequantize it there"):
        fold(entries)
    assert (
        fold({"l.weight": torch.ones(2, 4, dtype=torch.float64), "l.weight_scale": torch.ones(1)}).keys()
        == entries.keys()
    )


WRONG: dict[str, dict[str, Tensor]] = {
    "rows": {"weight_scale": torch.ones(3, 1)},
    "groups": {"weight_scale": torch.ones(2, 3)},
    "none": {"weight_scale": torch.ones(0)},
    "rank": {"weight_scale": torch.ones(2, 2, 1)},
    "type": {"weight_scale": torch.ones(2, 1, dtype=torch.int32)},
    "zero": {"weight_zero_point": torch.zeros(1)},
    "columns": {"weight_g_idx": torch.tensor([0, 0, 2, 0])},
    "column count": {"weight_g_idx": torch.tensor([0, 0])},
    "column sign": {"weight_g_idx": torch.tensor([0, 0, -1, 0])},
}


@pytest.mark.parametrize("what", WRONG)
def test_scales_that_do_not_fit_are_refused_by_name(what) -> None:
    entries = {"l.weight": STORED, "l.weight_scale": torch.ones(2, 2)}
    assert isinstance(fold(entries)["l.weight"], Scaled)
    with pytest.raises(FileError, match=r"tensor 'l\.weight'"):
        fold(entries | {f"l.{name}": tensor for name, tensor in WRONG[what].items()})


def test_floating_point_weights_with_a_tensor_called_so_stay_as_they_are() -> None:
    entries = {"l.weight": torch.ones(2, 2), "l.weight_scale": torch.ones(2, 1)}
    assert fold(entries) == entries
