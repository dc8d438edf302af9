"""Tensors written for other programs: what becomes sparse, what is refused, and shards."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rarefy.core.errors import FileError
from rarefy.formats import read
from rarefy.formats.held import dense
from rarefy.formats.interchange import write_tensors
from rarefy.formats.packed import Packed


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(16, 8, 4, generator=generator).argsort(-1) < 2
    weight = (torch.randn(16, 8, 4, generator=generator) * kept).reshape(16, 32) + 0.0
    most = torch.randn(16, 32, generator=generator) * (torch.rand(16, 32, generator=generator) < 0.3) + 0.0
    return {
        "a.weight": weight,
        "b.weight": most,
        "c.weight": torch.randn(4, 4, generator=generator),
        "d.embedding": most.clone(),
        "a.bias": torch.zeros(16),
    }


def test_each_layout_takes_what_fits_and_leaves_the_rest_dense(tmp_path) -> None:
    expected = {"dense": set(), "sparse-bitmask": {"a.weight", "b.weight"}, "sparse-24-bitmask": {"a.weight"}}
    for layout, sparse in expected.items():
        written = write_tensors(tmp_path / layout, tensors(), layout=layout)
        found = read(tmp_path / layout)
        assert set(written.sparse) == sparse == {name for name, t in found.items() if isinstance(t, Packed)}
        assert found.keys() == tensors().keys()
        assert all(torch.equal(dense(found[name]), tensor) for name, tensor in tensors().items())
        stored = load_file(tmp_path / layout / "model.safetensors")
        assert written.tensor_bytes == sum(t.nbytes for t in stored.values())
    assert written.sparse["a.weight"] == 0.5


def test_a_target_that_does_not_fit_is_refused_and_nothing_is_pruned(tmp_path) -> None:
    for target, said in (("b.weight", "more than two"), ("a.bias", "no matrix"), ("d.embedding", "no matrix")):
        with pytest.raises(FileError, match=said):
            write_tensors(tmp_path, tensors(), layout="sparse-24-bitmask", targets=[target])
    with pytest.raises(FileError, match="no layout 'zip'"):
        write_tensors(tmp_path, tensors(), layout="zip")
    assert not list(tmp_path.iterdir())


def test_names_that_are_taken_are_refused(tmp_path) -> None:
    with pytest.raises(FileError, match="would be a part of"):
        write_tensors(tmp_path, tensors() | {"a.shape": torch.ones(1)})


def test_shards_and_one_file_replace_each_other(tmp_path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for most, count in ((10**9, 1), (2000, 4), (1, 9), (10**9, 1)):
        written = write_tensors(tmp_path, tensors(), shard_bytes=most)
        assert len(written.files) == count or most == 1
        assert index.exists() == (count > 1) and (tmp_path / "model.safetensors").exists() == (count == 1)
        if count > 1:
            said = json.loads(index.read_text())
            assert said["metadata"]["total_size"] == written.tensor_bytes
            assert set(said["weight_map"].values()) == set(written.files)
        assert all(torch.equal(dense(t), tensors()[name]) for name, t in read(tmp_path).items())


def test_views_are_written_alone(tmp_path) -> None:
    whole = torch.randn(8, 8)
    write_tensors(tmp_path, {"a": whole[2:4], "b": whole[:, 1], "c": whole.t()})
    found = read(tmp_path)
    assert torch.equal(found["a"], whole[2:4]) and torch.equal(found["b"], whole[:, 1])
    assert torch.equal(found["c"], whole.t())


@pytest.mark.parametrize("most", [10**9, 100])
def test_a_tensor_with_two_names_is_written_under_both(tmp_path, most) -> None:
    """The state dict of a model with tied weights: safetensors itself refuses it."""
    table = torch.arange(12.0).reshape(4, 3)
    made = {"embed.weight": table, "head.weight": table, "part": table.view(3, 4)}
    write_tensors(tmp_path, made, layout="dense", shard_bytes=most)
    found = read(tmp_path)
    assert found.keys() == made.keys() and all(torch.equal(found[name], t) for name, t in made.items())
