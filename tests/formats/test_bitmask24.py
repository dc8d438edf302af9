"""Two of every four: the golden vector, what does not fit, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from rarefy.core.errors import FileError
from rarefy.core.registry import lookup
from rarefy.core.sparse import SparseTensor
from rarefy.formats import read
from rarefy.formats.bitmask24 import Bitmask24, _two_of_four, unpack
from rarefy.formats.packed import Packed, as_integers

GOLDEN = torch.tensor([[1.0, -3, 2, 0, 0, 0, 0, 7, 0, 5, 5, 0, 0, 0, -1, 2]])


def parts_of(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    packed = Packed.from_dense(weight)
    return Bitmask24().pack(packed.matrix)


def two_of_four(rows: int, columns: int, dtype: torch.dtype = torch.float32, most: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1)
    value = torch.randint(1, 60, (rows, columns), generator=generator)
    return (value * (order < most).reshape(rows, columns)).to(dtype)


def test_the_published_vector_is_read() -> None:
    """What the peer writes for [1 -3 2 0 | 0 0 0 7 | 5 5 5 5 | 0 0 -1 2]: it keeps the two largest of each four."""
    parts = {
        "shape": torch.tensor([[1], [16]]),
        "compressed": torch.tensor([[-3.0, 2, 0, 7, 5, 5, -1, 2]]),
        "bitmask": torch.tensor([[198, 204]], dtype=torch.uint8),
    }
    expected = torch.tensor([[0.0, -3, 2, 0, 0, 0, 0, 7, 0, 0, 5, 5, 0, 0, -1, 2]])
    assert torch.equal(unpack(parts).to_dense(), expected)


def test_the_tie_rule_fills_up_with_the_zeros_of_the_lowest_index() -> None:
    with pytest.raises(FileError, match=r"row 0, columns 0 to 3.*pattern='2:4'"):
        parts_of(GOLDEN)
    weight = GOLDEN.clone()
    weight[0, 0] = 0
    parts = parts_of(weight)
    assert parts["compressed"].tolist() == [[-3, 2, 0, 7, 5, 5, -1, 2]]
    assert parts["bitmask"].tolist() == [[0b1001_0110, 0b1100_0110]]
    assert parts["shape"].tolist() == [[1], [16]]
    assert parts_of(torch.zeros(1, 4))["bitmask"].tolist() == [[0b0011]]


TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(5, 12), (3, 4), (4, 64), (0, 8), (2, 0)])
@pytest.mark.parametrize("most", [0, 1, 2])
def test_round_trip(dtype, rows, columns, most) -> None:
    weight = two_of_four(rows, columns, dtype, most)
    parts = parts_of(weight)
    assert parts["compressed"].shape == (rows, columns // 2) and parts["compressed"].dtype == dtype
    back = unpack(parts).to_dense()
    assert back.dtype == dtype and torch.equal(as_integers(back), as_integers(weight))


def test_it_is_registered_and_says_what_does_not_fit() -> None:
    form = lookup("format", "sparse-24-bitmask").factory()
    assert form.fits(torch.ones(4, 4, dtype=torch.bool)).startswith("sparse-24-bitmask: more than two")
    assert "multiple of 4" in form.fits(torch.zeros(4, 6, dtype=torch.bool))
    assert "rank 3" in form.fits(torch.zeros(4, 4, 4, dtype=torch.bool))
    assert form.fits(two_of_four(4, 8).ne(0)) is None
    kept = SparseTensor.from_dense(two_of_four(4, 8))
    assert torch.equal(form.unpack(form.pack(kept)).bits, kept.bits)


WRONG = {
    "shape": torch.tensor([[5], [12], [1]]),
    "shape lies": torch.tensor([[5], [16]]),
    "shape negative": torch.tensor([[-5], [-12]]),
    "shape huge": torch.tensor([[2**40], [2**40]]),
    "columns": torch.tensor([[5], [10]]),
    "compressed": torch.zeros(5, 5),
    "compressed type": torch.zeros(5, 6, dtype=torch.complex64),
    "bitmask": torch.zeros(5, 3, dtype=torch.uint8),
    "bitmask type": torch.zeros(5, 2, dtype=torch.int8),
    "bitmask one": torch.full((5, 2), 0x12, dtype=torch.uint8),
    "bitmask padding": torch.full((5, 2), 0x33, dtype=torch.uint8),
}


WHY = {
    "shape": r"its shape is stored as \(3, 1\)",
    "shape lies": r"\(5, 6\) values do not fit \(5, 16\)",
    "shape negative": r"\(-5, -12\) is no size",
    "shape huge": r"is no size",
    "columns": r"10 columns are not a multiple of 4",
    "compressed": r"\(5, 5\) values do not fit",
    "compressed type": r"values of type torch\.complex64",
    "bitmask": r"a bitmask of shape \(5, 3\) does not fit",
    "bitmask type": r"the bitmask is torch\.int8",
    "bitmask one": r"exactly two of every four",
    "bitmask padding": r"exactly two of every four",
}


@pytest.mark.parametrize("what", WRONG)
def test_damage_is_refused_by_name(tmp_path, what) -> None:
    part = "shape" if what == "columns" else what.split()[0]
    parts = parts_of(two_of_four(5, 12)) | {part: WRONG[what]}
    save_file({f"l.q.{name}": tensor for name, tensor in parts.items()}, tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=rf"tensor 'l\.q\.weight': .*{WHY[what]}"):
        read(tmp_path / "m.safetensors")


def test_both_naming_schemes_in_one_file(tmp_path) -> None:
    a, b = two_of_four(5, 12), two_of_four(3, 8)
    stored = {f"a.{k}": v for k, v in parts_of(a).items()} | {f"b.weight.{k}": v for k, v in parts_of(b).items()}
    save_file(stored, tmp_path / "m.safetensors")
    found = read(tmp_path / "m.safetensors")
    assert found.keys() == {"a.weight", "b.weight"}
    assert torch.equal(found["a.weight"].to_dense(), a) and torch.equal(found["b.weight"].to_dense(), b)


def test_each_part_has_to_be_there_and_sizes_end_at_the_limit() -> None:
    parts = parts_of(two_of_four(5, 12))
    for part in parts:
        with pytest.raises(FileError, match=rf"tensor 'w': the parts \['{part}'\] are missing"):
            unpack({name: tensor for name, tensor in parts.items() if name != part}, "w")
    for shape, why in (
        ((2**48, 0), "values do not fit"), ((0, 2**48), "values do not fit"), ((2**48 + 1, 0), "is no size"),
        ((0, 2**48 + 4), "is no size"), ((-1, 4), "is no size"), ((4, -4), "is no size"),
        ((4, -1), "is no size"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=why):
            unpack(parts | {"shape": torch.tensor(shape)})
    with pytest.raises(FileError, match="its shape is stored as"):
        unpack(parts | {"shape": torch.tensor([5.0, 12.0])})


def test_every_row_is_looked_at_however_many_there_are() -> None:
    bits = torch.full((5, 2**19), 0x33, dtype=torch.uint8)  # two rows at a time
    assert _two_of_four(bits, 2**22)
    for row, column in ((0, 0), (4, 2**19 - 1), (3, 5)):
        wrong = bits.clone()
        wrong[row, column] = 0x13
        assert not _two_of_four(wrong, 2**22)
    assert _two_of_four(torch.full((2, 2**20 + 8), 0x55, dtype=torch.uint8), 2**23 + 64)  # not even one row at a time
    assert _two_of_four(bits[:0], 2**22) and _two_of_four(bits[:, :0], 0)


def test_each_half_byte_is_counted_for_itself() -> None:
    two = {i for i in range(16) if bin(i).count("1") == 2}
    for byte in range(256):
        whole = torch.tensor([[byte]], dtype=torch.uint8)
        assert _two_of_four(whole, 8) == (byte & 15 in two and byte >> 4 in two), byte
        assert _two_of_four(whole, 4) == (byte in two), byte
        behind = torch.tensor([[byte, 0x03]], dtype=torch.uint8)
        assert _two_of_four(behind, 12) == (byte & 15 in two and byte >> 4 in two), byte


def test_where_too_many_are_kept_is_told() -> None:
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[1, 4:7] = True
    assert "in row 1, columns 4 to 7" in Bitmask24().fits(mask)
    mask[1:, 8:] = True  # the first of several is named
    assert "in row 1, columns 4 to 7" in Bitmask24().fits(mask)
    mask[1, 6], mask[1:, 8:] = False, False
    assert Bitmask24().fits(mask) is None
    matrix = Bitmask24().unpack(parts_of(two_of_four(5, 12)))
    assert (matrix.shape, matrix.values.shape) == ((5, 12), (30,))
