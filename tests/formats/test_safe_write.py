"""The same content gives the same bytes, and they are an ordinary safetensors file."""

import itertools
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from rarefy.core.errors import FileError
from rarefy.formats.container import file_bytes, prepare, write
from rarefy.formats.header import read_header, write_header
from rarefy.formats.safe_write import write_stored

TENSORS = {
    "b": torch.arange(5, dtype=torch.uint8),
    "a": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double(),
    'ä "quoted"\n': torch.ones(1, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3),
}
METADATA = {
    "format": "pt",
    'a "key"': '{"json":"\\u00e9 \\\\"}',
    "control": "".join(map(chr, range(32))) + "\x7f\x85\u2028",
    "ünïcode 😀": "é😀/",
    "": "",
}


def header_of(path: Path) -> bytes:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return file.read(length)


def test_the_order_in_which_things_are_given_does_not_show(tmp_path) -> None:
    found = set()
    for i, keys in enumerate(itertools.islice(itertools.permutations(METADATA), 24)):
        tensors = dict(TENSORS.items() if i % 2 else reversed(TENSORS.items()))
        write_stored(tmp_path / "w", tensors, {key: METADATA[key] for key in keys})
        found.add((tmp_path / "w").read_bytes())
    assert len(found) == 1
    assert len(found.pop()) == len(save(TENSORS, METADATA)), "no byte more than safetensors itself writes"


def test_any_loader_reads_the_same_and_tensors_stay_aligned(tmp_path) -> None:
    write_stored(tmp_path / "w", TENSORS, METADATA)
    with safe_open(tmp_path / "w", framework="pt") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert file.get_tensor(name).dtype == tensor.dtype
            assert torch.equal(file.get_tensor(name), tensor)
    header = header_of(tmp_path / "w")
    assert len(header) % 8 == 0
    assert list(json.loads(header)["__metadata__"]) == sorted(METADATA)
    begins = {name: said["data_offsets"][0] for name, said in json.loads(header).items() if name != "__metadata__"}
    assert begins["a"] == 0
    assert next(iter(json.loads(header))) == "__metadata__"


def test_files_with_a_manifest_are_the_same_each_time(tmp_path) -> None:
    weight = torch.randn(64, 64) * (torch.rand(64, 64) < 0.3)
    prepared = prepare({"l.weight": weight, "l.bias": torch.ones(64)}, {"tied": "l.weight"})
    found = set()
    for _ in range(12):
        write(tmp_path / "w", prepared)
        found.add((tmp_path / "w").read_bytes())
    assert len(found) == 1
    assert len(found.pop()) == file_bytes(prepared)


def test_little_metadata_needs_no_sorting(tmp_path) -> None:
    for metadata in ({}, {"format": "pt"}):
        write_stored(tmp_path / "w", TENSORS, metadata)
        with safe_open(tmp_path / "w", framework="pt") as file:
            assert (file.metadata() or {}) == metadata


def test_what_no_loader_could_read_is_refused(tmp_path) -> None:
    with pytest.raises(FileError, match=r"no tensor .* may be called '__metadata__'; rename it"):
        write_stored(tmp_path / "w", {"__metadata__": torch.ones(1)}, METADATA)
    assert not (tmp_path / "w").exists()


def test_a_header_that_grew_is_not_written_over_the_tensors(tmp_path) -> None:
    write_stored(tmp_path / "w", TENSORS, METADATA)
    before = (tmp_path / "w").read_bytes()
    length, header = read_header(tmp_path / "w")
    with pytest.raises(FileError, match="does not fit"):
        write_header(tmp_path / "w", length, header | {"more": "x" * length})
    assert (tmp_path / "w").read_bytes() == before
