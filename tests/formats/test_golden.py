"""Files that compressed-tensors 0.14.0.1 wrote (`golden_cases`): read to the bit, and written again byte by byte."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from formats.golden_cases import GOLDEN, LAYOUTS, TYPES, given, golden, named, scaled
from rarefy.formats import bitmask, read
from rarefy.formats.held import dense
from rarefy.formats.interchange import write_tensors
from rarefy.formats.packed import Packed, as_integers


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_integers(a), as_integers(b))


@pytest.mark.parametrize("dtype", TYPES, ids=named)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_the_peer_is_read_and_written_again(tmp_path, layout, dtype) -> None:
    made, found = given(layout, dtype), read(golden(layout, dtype))
    assert found.keys() == made.keys() and all(same(dense(found[name]), tensor) for name, tensor in made.items())
    matrices = {name: tensor for name, tensor in made.items() if tensor.dim() == 2}
    assert all(isinstance(found[name], Packed) for name in matrices)
    write_tensors(tmp_path, matrices, layout=layout, targets=matrices)
    theirs, ours = load_file(golden(layout, dtype)), load_file(tmp_path / "model.safetensors")
    assert len(ours) == {"sparse-bitmask": 4, "sparse-24-bitmask": 3}[layout] * len(matrices)
    assert all(same(part, theirs[name]) for name, part in ours.items())
    if "m.conv.weight" in made:
        packed = bitmask.pack(Packed.from_dense(made["m.conv.weight"], by_row=False))
        assert all(same(part, theirs[f"m.conv.{name}"]) for name, part in packed.items())


def test_scales_mean_what_they_mean_to_the_peer(tmp_path) -> None:
    save_file(scaled(), tmp_path / "stored.safetensors")
    expected, found = load_file(GOLDEN / "scaled.safetensors"), read(tmp_path / "stored.safetensors")
    assert found.keys() == expected.keys() and len(found) == 16
    for name, tensor in expected.items():
        assert same(dense(found[name]), tensor), name
