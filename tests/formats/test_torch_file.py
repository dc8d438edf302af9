"""Files of torch.save, read without unpickling: equal to what torch gives, and nothing in them is called."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from rarefy.core.errors import FileError
from rarefy.formats import opcodes, read
from rarefy.formats.packed import as_integers
from rarefy.formats.torch_sparse import TorchSparse, from_parts


def some(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.3)


def state() -> dict[str, torch.Tensor]:
    d = some(8, 12)
    return {
        "coo": d.to_sparse_coo(),
        "csr": d.to_sparse_csr(),
        "csc": d.to_sparse_csc(),
        "bsr": d.to_sparse_bsr((2, 3)),
        "bsc": d.to_sparse_bsc((2, 3)),
        "half": d.half(),
        "turned": d.to(torch.bfloat16).t(),
        "cut": d[2:5, 1:7],
        "parameter": nn.Parameter(d),
        "eight": d.to(torch.float8_e4m3fn),
        "short": torch.tensor([1, 65535], dtype=torch.uint16),
        "flags": d > 0,
        "one": torch.tensor(3),
        "none": torch.zeros(0, 3),
        "double": d.double(),
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_integers(a), as_integers(b))


@pytest.mark.parametrize("mapped", [False, True])
def test_every_type_view_and_sparse_layout_is_what_torch_reads(tmp_path, mapped) -> None:
    from rarefy.formats.torch_file import read_torch

    path = tmp_path / "m.pt"
    torch.save(state(), path)
    found, expected = read_torch(path, mapped=mapped), torch.load(path, weights_only=True)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        if tensor.layout == torch.strided:
            assert isinstance(found[name], torch.Tensor) and same(found[name], tensor.detach()), name
        else:
            assert isinstance(found[name], TorchSparse) and found[name].tensor.layout == tensor.layout
            assert same(found[name].to_dense(), tensor.to_dense()), name
            assert found[name].shape == (8, 12) and found[name].dtype == torch.float32


class Trap:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "called")


def test_a_checkpoint_of_training_gives_its_weights_and_nothing_is_called(tmp_path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    said = {"epoch": 3, "optimizer": optimizer.state_dict(), "state_dict": model.state_dict(), "args": {"x": [1, (2,)]}}
    torch.save(said | {"trap": Trap(tmp_path / "trap")}, tmp_path / "c.ckpt")
    found = read(tmp_path / "c.ckpt")
    assert found.keys() == {"weight", "bias"} and same(found["weight"], model.weight.detach())
    assert not (tmp_path / "trap").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "trap")))
    assert (tmp_path / "trap").exists(), "the trap is one"


def test_a_tensor_of_a_kind_that_is_not_read_is_named_and_not_left_out(tmp_path) -> None:
    eight = torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)
    torch.save({"a": torch.ones(1), "q": eight}, tmp_path / "m.pt")
    with pytest.raises(FileError, match="tensor 'q': _rebuild_qtensor"):
        read(tmp_path / "m.pt")


def test_a_folder_of_bin_files_is_read_with_and_without_an_index(tmp_path) -> None:
    weight = some(8, 12)
    torch.save({"a.weight": weight}, tmp_path / "pytorch_model.bin")
    assert same(read(tmp_path)["a.weight"], weight)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "p1.bin")
    torch.save({"b.weight": weight * 2}, tmp_path / "p2.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a.weight": "p1.bin", "b.weight": "p2.bin"}}')
    assert same(read(tmp_path)["b.weight"], weight * 2)
    torch.save({"b.weight": weight, "a.weight": weight}, tmp_path / "p2.bin")
    with pytest.raises(FileError, match=r"'a\.weight' lies in two shards"):
        read(tmp_path)
    index.write_text('{"weight_map": {"a.weight": "../p1.bin"}}')
    with pytest.raises(FileError, match="not opened"):
        read(tmp_path)


def rewritten(path: Path, change) -> None:
    """The same archive with other records, laid out as torch does (records begin at multiples of 64)."""
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    change(records)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in records.items():
            info = zipfile.ZipInfo(name)
            pad = -(new.fp.tell() + 30 + len(name) + 4) % 64
            info.extra = struct.pack("<2H", 0x4246, pad) + bytes(pad)
            new.writestr(info, data)


def program(records: dict[str, bytes], old: bytes, new: bytes) -> None:
    name = next(name for name in records if name.endswith("data.pkl"))
    assert old in records[name]
    records[name] = records[name].replace(old, new)


LIES = {
    "a storage that is cut": lambda r: r.update({next(n for n in r if "/data/0" in n): b"1234"}),
    "a storage that is missing": lambda r: r.pop(next(n for n in r if "/data/0" in n)),
    "a larger shape": lambda r: program(r, b"K\x08K\x0c", b"K\x80K\xff"),
    "a shape of millions": lambda r: program(r, b"K\x08K\x0c", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f"),
    "an unknown storage": lambda r: program(r, b"FloatStorage", b"EvilStorage"),
    "an index that is too large": lambda r: r.update({next(n for n in r if "/data/0" in n): b"\x7f" * 8 * 9}),
    "another program": lambda r: program(r, b"\x80\x02", b"\x80\x02\x8f\x85R"),
}


@pytest.mark.parametrize("what", LIES)
def test_lies_are_refused(tmp_path, what) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a.weight": some(8, 12).to_sparse_csr() if "index" in what else some(8, 12)}, path)
    rewritten(path, lambda records: None)
    assert read(path).keys() == {"a.weight"}
    rewritten(path, LIES[what])
    with pytest.raises(FileError, match=r"m\.pt.*"):
        read(path)


def test_compressed_records_are_refused_unread(tmp_path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    with pytest.raises(FileError, match="compressed"):
        read(path)


def test_the_old_format_and_other_files_say_what_to_do(tmp_path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FileError, match="save the tensors as safetensors"):
        read(tmp_path / "old.pt")
    (tmp_path / "m.gguf").write_bytes(b"GGUF1234")
    with pytest.raises(FileError, match=r"llama\.cpp"):
        read(tmp_path / "m.gguf")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(FileError, match="save a state dict"):
        read(tmp_path / "list.pt")


NONSENSE = {
    "empty": b"",
    "no end": b"\x80\x02N",
    "no mark": b"\x80\x02Nt.",
    "empty stack": b"\x80\x02\x85.",
    "unknown memo": b"\x80\x02h\x07.",
    "too long": b"\x80\x02" + b"N" * 300_000 + b".",
    "a nested key": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.",
    "no dict": b"\x80\x02]K\x01K\x02s.",
    "nested lists": b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b"Na.",
    "dup": b"\x80\x02N2.",
}


@pytest.mark.parametrize("what", NONSENSE)
def test_programs_of_nonsense_are_refused(what) -> None:
    with pytest.raises(FileError):
        opcodes.follow(NONSENSE[what] if what != "nested lists" else NONSENSE[what][:-1] + b"R.")


def test_a_program_is_followed_without_its_objects() -> None:
    said = opcodes.follow(pickle.dumps({"a": [1, 2.5, None, ("x", b"y", True)], "b": io.StringIO}, protocol=2))
    assert said == {"a": [1, 2.5, None, ("x", opcodes_bytes(said), True)], "b": opcodes.Name("_io", "StringIO")}


def opcodes_bytes(said):
    """Protocol 2 has no bytes: it writes a call that would encode a text."""
    call = said["a"][3][1]
    assert isinstance(call, opcodes.Call) and call.what == opcodes.Name("_codecs", "encode")
    return call


@pytest.mark.parametrize("layout", ["torch.sparse_bsr", "torch.sparse_bsc"])
@pytest.mark.parametrize("block", [(0, 2), (2, 0)])
def test_blocks_without_entries_are_refused(layout, block) -> None:
    """torch takes such a tensor and divides by the block's size when it is asked for its entries."""
    indices = torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(FileError, match="blocks of shape"):
        from_parts(layout, indices, torch.ones(0, *block), (2, 2), "a")
