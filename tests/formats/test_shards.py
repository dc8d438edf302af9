"""Tensors of shards one at a time: the values that the library of the format gives, and writes that stay in place."""

import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from rarefy.core.errors import DTypeError, FileError
from rarefy.formats.shards import drop_metadata, open_shards, places_of

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.arange(5).to(torch.bfloat16),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 3),
    "c": torch.tensor([True, False, True]),
}


def folder_of(path, tensors=TENSORS, **metadata):
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata or None)
    return path


def test_reads_and_maps_what_the_library_reads(tmp_path) -> None:
    shards = open_shards(folder_of(tmp_path))
    for name, tensor in TENSORS.items():
        assert shards.read(name).dtype == tensor.dtype
        assert torch.equal(shards.read(name), tensor)
        if tensor.numel():
            assert torch.equal(shards.mapped(name), tensor)


def test_a_write_changes_that_tensor_only(tmp_path) -> None:
    shards = open_shards(folder_of(tmp_path))
    shards.write({"b": torch.ones(5), "a": -TENSORS["a"]})
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(found["b"], torch.ones(5, dtype=torch.bfloat16))
    assert torch.equal(found["a"], -TENSORS["a"])
    assert all(torch.equal(found[name], TENSORS[name]) for name in ("scalar", "empty", "c"))
    with pytest.raises(FileError, match=r"has shape \(4,\)"):
        shards.write({"b": torch.ones(4)})


def test_a_write_through_a_map_stays_private(tmp_path) -> None:
    shards = open_shards(folder_of(tmp_path))
    shards.mapped("a").zero_()
    assert torch.equal(shards.read("a"), TENSORS["a"])


def test_metadata_go_and_tensors_stay(tmp_path) -> None:
    path = folder_of(tmp_path, **{"rarefy.digest": "x" * 99, "format": "pt"}) / "model.safetensors"
    size = path.stat().st_size
    drop_metadata(path, "rarefy.")
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    found = safetensors.torch.load_file(path)
    assert path.stat().st_size == size and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_shards_are_those_of_the_index(tmp_path) -> None:
    safetensors.torch.save_file({"a": TENSORS["a"]}, tmp_path / "1.safetensors")
    safetensors.torch.save_file({"b": TENSORS["b"]}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"

    def says(where) -> None:
        index.write_text(json.dumps({"weight_map": where}))

    says({"a": "1.safetensors", "b": "2.safetensors"})
    assert torch.equal(open_shards(tmp_path).read("b"), TENSORS["b"])
    says({"a": "1.safetensors", "b": "../2.safetensors"})
    with pytest.raises(FileError, match="not a safetensors file in the same folder"):
        open_shards(tmp_path)
    says({"a": "1.safetensors", "c": "2.safetensors"})
    with pytest.raises(FileError, match="differ between index and shards"):
        open_shards(tmp_path)
    says({})
    with pytest.raises(FileError, match="no weight_map"):
        open_shards(tmp_path)
    index.unlink()
    with pytest.raises(FileError, match="has neither"):
        open_shards(tmp_path)


def test_a_file_that_shrank_while_it_was_open_is_an_error(tmp_path) -> None:
    shards = open_shards(folder_of(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FileError, match="ends early"):
        [shards.read(name) for name in TENSORS]


def test_a_type_that_torch_lacks_here_is_named(tmp_path) -> None:
    shards = open_shards(folder_of(tmp_path, {"a": torch.ones(4).to(torch.float8_e4m3fn)}))
    with pytest.raises(DTypeError, match="F8_E4M3"):
        shards.read("a")


@given(st.binary(max_size=200))
def test_no_header_is_trusted(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bad") / "x.safetensors"
    path.write_bytes(struct.pack("<Q", max(0, len(content) - 20)) + content)
    with pytest.raises(FileError):
        places_of(path)
