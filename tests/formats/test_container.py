"""Files of dense and sparse tensors: what is stored how, and what is refused."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rarefy.core.errors import FileError
from rarefy.formats import bitmask, read
from rarefy.formats.container import prepare, read_file, write
from rarefy.formats.manifest import Manifest, digest
from rarefy.formats.packed import Packed
from rarefy.formats.safe import MAX_HEADER


def sparse(*shape: int, density: float = 0.3, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator)
    return torch.where(torch.rand(*shape, generator=generator) < density, weight, torch.zeros(())).to(dtype)


def dense(found: torch.Tensor | Packed) -> torch.Tensor:
    return found.to_dense() if isinstance(found, Packed) else found


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (384, 1536)])
def test_seventy_percent_zeros_take_a_third_of_the_bytes(path, shape) -> None:
    """The layers of the demo's encoder: at most 45 % of dense fp32, and what the formula says."""
    weight = sparse(*shape)
    prepared = prepare({"layer.weight": weight})
    write(path, prepared)
    (record,) = prepared.stored
    kept = int(weight.ne(0).sum())
    assert record.encoding == "sparse-bitmask"
    assert record.file_bytes == 4 * kept + weight.numel() // 8 + 8 * shape[0] + 16
    assert record.file_bytes <= 0.345 * record.dense_bytes
    assert path.stat().st_size <= 0.35 * record.dense_bytes + 2000
    assert torch.equal(dense(read(path)["layer.weight"]), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("shape", [(64, 48), (32, 16, 3, 3), (40, 9, 8)])
def test_every_type_and_rank_comes_back(path, dtype, shape) -> None:
    weight = (sparse(*shape, density=0.2) * 10).to(dtype)
    prepared = prepare({"a.weight": weight})
    write(path, prepared)
    assert prepared.stored[0].encoding == "sparse-bitmask"
    back = dense(read(path)["a.weight"])
    assert back.dtype == dtype
    assert torch.equal(back, weight)


def test_what_is_not_smaller_stays_dense_and_readable_by_anyone(path) -> None:
    tensors = {
        "full.weight": torch.randn(64, 64),
        "nearly.weight": sparse(64, 64, density=0.97),
        "small.weight": sparse(4, 4),
        "bias": torch.zeros(4096),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "phase": torch.zeros(64, 64, dtype=torch.complex64),
    }
    prepared = prepare(tensors)
    write(path, prepared)
    assert {t.encoding for t in prepared.stored} == {"dense"}
    with safe_open(path, "pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    assert all(torch.equal(dense(found), tensors[name]) for name, found in read(path).items())


def test_names_follow_the_peer_and_step_aside_when_taken(path) -> None:
    tensors = {
        "a.weight": sparse(64, 64),
        "b.in_proj_weight": sparse(64, 64, seed=1),
        "weight": sparse(64, 64, seed=2),
        "c.weight": sparse(64, 64, seed=3),
        "c.shape": torch.tensor([5]),
        "d.weight": sparse(64, 64, seed=4),
        "d.bitmask": torch.tensor([5]),
        "d.weight.shape": torch.tensor([6]),
    }
    prepared = prepare(tensors)
    write(path, prepared)
    names = set(prepared.parts)
    assert {"a.compressed", "b.in_proj_weight.compressed", "weight.compressed", "c.weight.compressed"} <= names
    assert "d.weight" in names
    back = read(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(dense(back[name]), tensor) for name, tensor in tensors.items())


def test_minus_zero_is_stated(path) -> None:
    weight = sparse(64, 64) * -1.0
    record = prepare({"a.weight": weight}).stored[0]
    assert record.zeros == int(weight.eq(0).sum())
    assert record.negative_zeros == int((weight.eq(0) & torch.signbit(weight)).sum()) > 0
    assert prepare({"a.weight": weight.abs()}).stored[0].negative_zeros == 0


def test_aliases_give_the_same_object(path) -> None:
    write(path, prepare({"a.weight": sparse(64, 64)}, {"tied.weight": "a.weight"}))
    back = read(path)
    assert back["tied.weight"] is back["a.weight"]


# --- files of other programs -------------------------------------------------------------------------------------


def foreign(prefix: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{part}": t for part, t in bitmask.pack(Packed.from_dense(weight, by_row=False)).items()}


def test_both_naming_schemes_are_recognised(path) -> None:
    new, old, bias, conv = sparse(8, 20), sparse(3, 17, seed=1), sparse(9, seed=2), sparse(4, 2, 3, 3, seed=3)
    plain = torch.randn(3)
    save_file(
        foreign("l.q", new)
        | foreign("l.k.weight", old)
        | foreign("l.k.bias", bias)
        | foreign("c", conv)
        | {"n": plain},
        path,
    )
    back = read(path)
    assert back.keys() == {"l.q.weight", "l.k.weight", "l.k.bias", "c.weight", "n"}
    for name, tensor in (("l.q.weight", new), ("l.k.weight", old), ("l.k.bias", bias), ("c.weight", conv)):
        assert torch.equal(dense(back[name]), tensor)


def test_a_plain_tensor_called_bitmask_is_just_that(path) -> None:
    save_file({"x.bitmask": torch.ones(3), "bitmask": torch.ones(2)}, path)
    assert read(path).keys() == {"x.bitmask", "bitmask"}


def test_half_a_sparse_tensor_is_named(path) -> None:
    parts = foreign("l.q", sparse(8, 20))
    del parts["l.q.compressed"]
    save_file(parts, path)
    with pytest.raises(FileError, match=r"'l\.q'.*compressed.*missing"):
        read(path)


def test_parts_without_offsets_are_taken_for_the_other_layout(path) -> None:
    parts = foreign("l.q", sparse(8, 20))
    del parts["l.q.row_offsets"]
    save_file(parts, path)
    with pytest.raises(FileError, match=r"'l\.q\.weight'.*values do not fit"):
        read(path)


def test_a_tensor_stored_twice_is_refused(path) -> None:
    save_file(foreign("l.q", sparse(8, 20)) | {"l.q.weight": torch.zeros(8, 20)}, path)
    with pytest.raises(FileError, match="twice"):
        read(path)


def test_shards_are_read_together(tmp_path) -> None:
    weight = sparse(8, 20)
    parts = foreign("l.q", weight)
    first = dict(list(parts.items())[:2])
    second = {name: t for name, t in parts.items() if name not in first} | {"n": torch.ones(2)}
    save_file(first, tmp_path / "a.safetensors")
    save_file(second, tmp_path / "b.safetensors")
    where = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    back = read(tmp_path)
    assert back.keys() == {"l.q.weight", "n"}
    assert torch.equal(dense(back["l.q.weight"]), weight)
    index.write_text(json.dumps({"weight_map": where | {"gone": "b.safetensors"}}))
    with pytest.raises(FileError, match="'gone'"):
        read(tmp_path)


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/passwd", "a.bin", "x/a.safetensors", ""])
def test_an_index_cannot_point_elsewhere(tmp_path, file) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(FileError, match="not opened"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_of_nonsense_is_refused(tmp_path, text) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FileError, match="get the file again"):
        read(tmp_path)


# --- damaged and hostile files ------------------------------------------------------------------------------------


def test_what_is_not_there_is_said(tmp_path) -> None:
    with pytest.raises(FileError, match=r"holds no model\.safetensors"):
        read(tmp_path)
    with pytest.raises(FileError, match="give a file or folder"):
        read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 2**63), b"\x80\x04pickle..", b"{}" * 100])
def test_what_is_not_safetensors_is_refused(path, content) -> None:
    path.write_bytes(content)
    with pytest.raises(FileError, match="get it again"):
        read(path)


def test_a_huge_header_is_refused_before_it_is_parsed(path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(MAX_HEADER + 100)  # sparse on disk
    with pytest.raises(FileError, match="limit"):
        read(path)


def rewrite(path: Path, change) -> None:
    """Changes the parsed content of a file (tensors, manifest) and signs it again, as a careful attacker would."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    said = json.loads(metadata["rarefy.manifest"])
    change(tensors, said)
    said["digests"] = {name: digest(name, tensor) for name, tensor in tensors.items()}
    save_file(tensors, path, Manifest(**said).to_metadata())


CAREFUL = {
    "a bit in the mask": lambda t, m: t["a.bitmask"][0].__setitem__(0, t["a.bitmask"][0, 0] ^ 1),
    "an offset": lambda t, m: t["a.row_offsets"].__setitem__(3, 10**12),
    "a lying shape": lambda t, m: t.update({"a.shape": torch.tensor([2**31, 2**31])}),
    "values of another length": lambda t, m: t.update({"a.compressed": torch.zeros(1)}),
    "a sparse tensor without parts": lambda t, m: m["sparse"].update({"z.weight": "z"}),
    "a prefix used twice": lambda t, m: m["sparse"].update({"z.weight": "a"}),
    "a name held twice": lambda t, m: t.update({"a.weight": torch.zeros(2)}),
    "an alias to nothing": lambda t, m: m["aliases"].update({"z": "nothing"}),
    "an alias to an alias": lambda t, m: m["aliases"].update({"z": "tied"}),
    "an alias over a tensor": lambda t, m: m["aliases"].update({"b": "a.weight"}),
}


@pytest.mark.parametrize("what", CAREFUL)
def test_a_lie_with_right_digests_is_refused(path, what) -> None:
    write(path, prepare({"a.weight": sparse(64, 60), "b": torch.ones(3)}, {"tied": "b"}))
    rewrite(path, lambda t, m: None)
    assert read(path).keys() == {"a.weight", "b", "tied"}
    rewrite(path, CAREFUL[what])
    with pytest.raises(FileError, match=r"model\.safetensors.*(get it again|get the file again)"):
        read(path)


@pytest.mark.parametrize(
    "manifest", ["[]", "{}}", "[" * 50_000, '{"sparse": []}', '{"digests": {"a": 1}}', '{"x": {}}']
)
def test_a_manifest_of_nonsense_is_refused(path, manifest) -> None:
    import hashlib

    signed = hashlib.sha256(manifest.encode()).hexdigest()
    metadata = {"rarefy.layout": "1", "rarefy.manifest": manifest, "rarefy.digest": signed}
    save_file({"a": torch.zeros(2)}, path, metadata)
    with pytest.raises(FileError, match="manifest cannot be read"):
        read(path)


def test_a_later_layout_asks_for_an_upgrade(path) -> None:
    save_file({"a": torch.zeros(2)}, path, Manifest().to_metadata() | {"rarefy.layout": "2"})
    with pytest.raises(FileError, match="upgrade rarefy"):
        read(path)


def test_altered_missing_and_added_tensors_are_named(path) -> None:
    write(path, prepare({"a.weight": sparse(64, 64), "b": torch.ones(3)}))
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    save_file(tensors | {"b": torch.tensor([1.0, 1.0, 2.0])}, path, metadata)
    with pytest.raises(FileError, match="tensor 'b' was altered"):
        read(path)
    save_file({name: t for name, t in tensors.items() if name != "a.bitmask"}, path, metadata)
    with pytest.raises(FileError, match=r"'a\.bitmask'.*missing"):
        read(path)
    save_file(tensors | {"c": torch.ones(1)}, path, metadata)
    with pytest.raises(FileError, match=r"'c'.*not in its manifest"):
        read(path)


def test_what_was_read_does_not_change_with_the_file(path) -> None:
    write(path, prepare({"b": torch.ones(3000)}))
    found = read_file(path).tensors["b"]
    with path.open("r+b") as file:
        file.seek(-12000, 2)
        file.write(b"\xff" * 12000)
    assert torch.equal(found, torch.ones(3000))
