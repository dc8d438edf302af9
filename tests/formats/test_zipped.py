"""The list of records of an archive: large ones, and each lie that it can tell."""

import struct
import zipfile
from pathlib import Path

import pytest
import torch

from rarefy.core.errors import FileError
from rarefy.formats import zipped
from rarefy.formats.zipped import open_records

ENTRY, END = b"PK\x01\x02", b"PK\x05\x06"


def archive(path: Path) -> bytearray:
    """As torch writes it, but with an end of four-byte numbers only."""
    torch.save({"w": torch.arange(6.0)}, path)
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in records.items():
            new.writestr(name, data)
    return bytearray(path.read_bytes())


def first_entry(raw: bytearray) -> int:
    """Where the list of records begins, as its end says."""
    return struct.unpack_from("<L", raw, raw.rindex(END) + 16)[0]


def put(raw: bytearray, at: int, packing: str, value: int) -> None:
    struct.pack_into(packing, raw, at, value)


LIES = {
    "is compressed or locked": lambda raw, at: put(raw, at + 8, "<H", 1),
    "has two sizes": lambda raw, at: put(raw, at + 20, "<L", 1),
    "has no header": lambda raw, at: put(raw, at + 42, "<L", 1),
    "lies outside the file": lambda raw, at: (put(raw, at + 20, "<L", 2**24), put(raw, at + 24, "<L", 2**24)),
    "list of records is broken": lambda raw, at: put(raw, at, "<L", 7),
    "its end is missing": lambda raw, at: raw.append(0),
    "its list of records lies outside": lambda raw, at: put(raw, raw.rindex(END) + 12, "<L", 2**20),
    "limit 4194304": lambda raw, at: grown(raw),
    "utf-8": lambda raw, at: put(raw, at + 46, "<B", 0xFF),
}


def grown(raw: bytearray) -> None:
    """Five megabytes before the end, all of them said to be the list."""
    at = raw.rindex(END)
    raw[at:at] = bytes(5 * 2**20)
    put(raw, raw.rindex(END) + 12, "<L", 5 * 2**20)


@pytest.mark.parametrize("why", LIES)
@pytest.mark.parametrize("mapped", [False, True])
def test_each_lie_is_refused_with_its_reason(tmp_path, why: str, mapped: bool) -> None:
    path = tmp_path / "m.pt"
    raw = archive(path)
    assert "data.pkl" in open_records(path, mapped=mapped).places
    LIES[why](raw, first_entry(raw))
    path.write_bytes(raw)
    with pytest.raises(FileError, match=why):
        open_records(path, mapped=mapped)


def test_the_same_name_twice(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as new:
        new.writestr("a/x", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            new.writestr("a/x", b"2")
    with pytest.raises(FileError, match="holds the record 'x' twice"):
        open_records(tmp_path / "m.pt")


def wide_end(raw: bytearray, at: int) -> bytearray:
    """The same archive with the end that those beyond four gigabytes have."""
    begin, end = at, raw.rindex(END)
    long = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - begin, begin)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return raw[:end] + long + locator + raw[end:]


def wide_offset(raw: bytearray, at: int) -> bytearray:
    """The first record with its offset in the extra field, behind a field of another kind."""
    name_size, extra_size = struct.unpack_from("<2H", raw, at + 28)
    (offset,) = struct.unpack_from("<L", raw, at + 42)
    extra = struct.pack("<2H4s", 9, 4, b"else") + struct.pack("<2HQ", 1, 8, offset)
    put(raw, at + 42, "<L", 0xFFFFFFFF)
    put(raw, at + 30, "<H", len(extra))
    place = at + 46 + name_size
    raw[place : place + extra_size] = extra
    end = raw.rindex(END)
    put(raw, end + 12, "<L", struct.unpack_from("<L", raw, end + 12)[0] + len(extra) - extra_size)
    return raw


@pytest.mark.parametrize("change", [wide_end, wide_offset])
def test_numbers_of_eight_bytes_are_read(tmp_path, change) -> None:
    path = tmp_path / "m.pt"
    raw = archive(path)
    plain = open_records(path)
    path.write_bytes(change(raw, first_entry(raw)))
    wide = open_records(path)
    assert wide.places == plain.places
    assert all(torch.equal(wide.bytes(name), plain.bytes(name)) for name in plain.places)


def test_an_end_of_eight_bytes_that_points_nowhere(tmp_path) -> None:
    path = tmp_path / "m.pt"
    raw = archive(path)
    raw = wide_end(raw, first_entry(raw))
    for place in (0, 2**40):
        put(raw, len(raw) - 22 - 12, "<Q", place)
        path.write_bytes(raw)
        with pytest.raises(FileError, match="its end is broken"):
            open_records(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "m.pt"
    archive(path)
    monkeypatch.setattr(zipped.numpy, "fromfile", lambda path, kind, size: torch.zeros(size - 1).byte().numpy())
    with pytest.raises(FileError, match="became shorter"):
        open_records(path)
    with pytest.raises(FileError, match="not a whole archive"):
        open_records(tmp_path / "absent.pt")
