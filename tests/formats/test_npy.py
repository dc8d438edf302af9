"""Arrays of `numpy.save`: read as numpy reads them, or refused before anything is made room for."""

import struct
import tracemalloc

import numpy
import pytest
import torch

from rarefy.core.errors import FileError
from rarefy.formats.npy import read_npy


def said(header: str, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header.encode() + data


def shaped(shape: str, kind: str = "<i8") -> str:
    return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("kind", ["i8", "i4", "u1", "f4", "f8", "f2", "?", "c8"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 4)])
def test_what_numpy_wrote_comes_back(kind, shape, tmp_path) -> None:
    array = numpy.random.default_rng(0).integers(0, 9, shape).astype(kind)
    numpy.save(tmp_path / "a.npy", array)
    assert torch.equal(read_npy(tmp_path / "a.npy"), torch.from_numpy(array))
    numpy.save(tmp_path / "f.npy", array.copy(order="F"))
    assert torch.equal(read_npy(tmp_path / "f.npy"), torch.from_numpy(array))
    assert torch.equal(read_npy(_as_version_2(tmp_path, array)), torch.from_numpy(array))


def _as_version_2(folder, array):
    with (folder / "v.npy").open("wb") as file:
        numpy.lib.format.write_array(file, array, version=(2, 0))
    return folder / "v.npy"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04" + bytes(30),
        said(shaped("(2,)"), version=3),
        said(shaped("(2, 3)"), bytes(47)),
        said(shaped("(1099511627776,)")),
        said(shaped("(4611686018427387904, 4)")),
        said(shaped("(-1,)")),
        said(shaped("(True,)"), bytes(8)),
        said(shaped("[2]"), bytes(16)),
        said(shaped("(2,)", "|O"), bytes(16)),
        said(shaped("(2,)", ">i8"), bytes(16)),
        said(shaped("(2,)", "nonsense"), bytes(16)),
        said("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (2,)}", bytes(16)),
        said("{'shape': (2,)}", bytes(16)),
        said("(" * 900),
        said("__import__('antigravity')"),
        said(" " * 1025),
        said("'" + "x" * 99),
        said(shaped("(2,)"))[:40],
    ],
)
def test_what_is_no_array_of_numbers_is_refused(data, tmp_path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"a\.npy: is no array of numbers"):
        read_npy(path)


def test_a_shape_that_the_file_does_not_have_costs_nothing(tmp_path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(said(shaped("(524288,)")))
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="more than the 0 bytes that it holds"):
            read_npy(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
