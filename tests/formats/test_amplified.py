"""Small files that stand for much: what a reader takes is bounded by the file, not by what the file claims."""

import hashlib
import json
import resource
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from rarefy.core.errors import FileError
from rarefy.formats import read
from rarefy.formats.folder import MAX_VALUES, read_json
from rarefy.formats.safe import MAX_TENSORS

MiB = 2**20


def header(path: Path, said: str) -> Path:
    data = said.encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    return path


def peak_growth(call) -> int:
    """Bytes by which the most that the process ever held grew."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FileError):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)


def test_a_header_that_is_not_there_is_not_made_room_for(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 8 * MiB) + bytes(44))
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="announces a header of 8388608 bytes, but holds 44"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MiB
    finally:
        tracemalloc.stop()


def test_a_header_of_a_million_tensors_is_refused_before_it_is_parsed(tmp_path) -> None:
    names = (f'"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(MAX_TENSORS + 1))
    path = header(tmp_path / "model.safetensors", "{" + ",".join(names) + "}")
    assert peak_growth(lambda: read(path)) < 2 * path.stat().st_size + 16 * MiB
    with pytest.raises(FileError, match=f"more than {MAX_TENSORS} tensors; save it in shards"):
        read(path)


def test_a_shape_of_millions_of_axes_is_refused_before_it_is_parsed(tmp_path) -> None:
    axes = ",".join("0" * (16 * MAX_TENSORS + 2))
    said = f'{{"a":{{"dtype":"U8","shape":[{axes}],"data_offsets":[0,0]}}}}'
    with pytest.raises(FileError, match="its header names more than"):
        read(header(tmp_path / "model.safetensors", said))


def test_a_signed_manifest_of_more_names_than_tensors_is_refused(tmp_path) -> None:
    text = json.dumps({"sparse": {f"{i:x}": "" for i in range(3000)}})
    signed = hashlib.sha256(text.encode()).hexdigest()
    said = {"rarefy.layout": "1", "rarefy.manifest": text, "rarefy.digest": signed}
    with pytest.raises(FileError, match="names far more than its 0 tensors"):
        read(header(tmp_path / "model.safetensors", json.dumps({"__metadata__": said})))


def test_json_of_many_small_values_is_refused(tmp_path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a":[' + "[]," * MAX_VALUES + "[]]}")
    with pytest.raises(FileError, match=f"more than {MAX_VALUES} values"):
        read_json(path)
    path.write_text('{"a":[' + "[]," * 1000 + "[]]}")
    assert len(read_json(path)["a"]) == 1001


def state(names: int, *, copies: bool = False) -> dict[str, torch.Tensor]:
    """Weights and masks under many names, of which a file of torch.save holds each once."""
    weight, mask = torch.zeros(256, 256), torch.ones(256, 256)
    pairs = [(weight.clone(), mask.clone()) if copies else (weight, mask) for _ in range(names)]
    return {
        f"{i}_{part}": value for i, pair in enumerate(pairs) for part, value in zip(("orig", "mask"), pair, strict=True)
    }


def test_masks_that_share_their_bytes_are_made_once(tmp_path) -> None:
    torch.save(state(20), tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    assert len(found) == 20
    assert len({entry.mask.data_ptr() for entry in found.values()}) == 1
    torch.save(state(3, copies=True), tmp_path / "b.pt")
    assert len({entry.mask.data_ptr() for entry in read(tmp_path / "b.pt").values()}) == 3


def test_a_thousand_names_for_one_tensor_are_refused(tmp_path) -> None:
    torch.save(state(1000), tmp_path / "a.pt")
    with pytest.raises(FileError, match="share their bytes too many times"):
        read(tmp_path / "a.pt")


def test_views_that_overlap_are_refused_and_views_that_do_not_are_read(tmp_path) -> None:
    flat = torch.arange(2.0**18)
    torch.save({f"{i}": flat[i : i + 2**17] for i in range(9)}, tmp_path / "a.pt")
    with pytest.raises(FileError, match="share their bytes too many times"):
        read(tmp_path / "a.pt")
    torch.save({f"{i}": flat[i * 2**14 : (i + 1) * 2**14] for i in range(16)}, tmp_path / "b.pt")
    found = read(tmp_path / "b.pt")
    assert all(torch.equal(found[f"{i}"], flat[i * 2**14 : (i + 1) * 2**14]) for i in range(16))


def test_adapters_that_share_their_indices_are_refused(tmp_path) -> None:
    index, values = torch.zeros(2, 3, dtype=torch.int32), torch.ones(3)
    said = {}
    for name in ("a", "b"):
        said |= {f"base_model.model.{name}.shira_weight": values, f"base_model.model.{name}.shira_indices": index}
    torch.save(said, tmp_path / "a.pt")
    with pytest.raises(FileError, match="it shares tensors with another"):
        read(tmp_path / "a.pt")
