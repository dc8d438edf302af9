"""`sparse-bitmask`: golden vectors, exact round trips, and every check that keeps a wrong part away from a kernel."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.core.errors import DTypeError, FileError
from rarefy.core.registry import lookup
from rarefy.core.sparse import SparseTensor
from rarefy.formats.bitmask import PARTS, Bitmask, pack, popcount, unpack
from rarefy.formats.packed import VALUE_TYPES, Packed, as_integers, by_parts, rows_at_once

GOLDEN = torch.tensor([[0, 1.5, 0, 0, -2, 0, 0, 0, 3, 0], [4, 0, 0, 0, 0, 0, 0, 0, 0, -5]])
TYPES = sorted(VALUE_TYPES, key=str)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    keep = torch.rand(count, generator=generator) < density
    values = torch.randint(1, 100, (count,), generator=generator).to(torch.float32)
    return torch.where(keep, values, torch.zeros(())).to(dtype).reshape(shape)


def test_golden_vector() -> None:
    parts = pack(Packed.from_dense(GOLDEN))
    assert parts["shape"].tolist() == [2, 10]
    assert parts["compressed"].tolist() == [1.5, -2, 3, 4, -5]
    assert parts["bitmask"].tolist() == [[18, 1], [1, 2]]
    assert parts["row_offsets"].tolist() == [0, 3]
    assert {p: parts[p].dtype for p in PARTS} == {
        "shape": torch.int64,
        "compressed": torch.float32,
        "bitmask": torch.uint8,
        "row_offsets": torch.int64,
    }
    assert torch.equal(unpack(parts).to_dense(), GOLDEN)


def test_golden_vector_of_rank_four_cut_along_the_last_axis() -> None:
    """As compressed-tensors 0.14.0.1 writes it: offsets run along axis 0 only. Computed with the peer."""
    weight = torch.zeros(2, 1, 2, 3)
    weight[0, 0, 0, 1], weight[0, 0, 1, 2], weight[1, 0, 0, 0], weight[1, 0, 1, 1] = 1.0, 2.0, 3.0, 4.0
    parts = pack(Packed.from_dense(weight, by_row=False))
    assert parts["bitmask"].tolist() == [[[[2], [4]]], [[[1], [2]]]]
    assert parts["row_offsets"].tolist() == [[[0, 0]], [[1, 1]]]
    assert parts["compressed"].tolist() == [1, 2, 3, 4]
    assert torch.equal(unpack(parts).to_dense(), weight)


def test_golden_vector_of_rank_one() -> None:
    parts = pack(Packed.from_dense(torch.tensor([0.0, 7.0, 0.0])))
    assert parts["bitmask"].tolist() == [2]
    assert parts["row_offsets"].shape == ()
    assert unpack(parts).to_dense().tolist() == [0, 7, 0]


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(0, 19), min_size=0, max_size=4).map(tuple),
    dtype=st.sampled_from(TYPES),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.7, 1.0]),
    by_row=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_round_trip_is_exact(shape, dtype, density, by_row, seed) -> None:
    tensor = random_tensor(shape, dtype, density, seed)
    parts = pack(Packed.from_dense(tensor, by_row=by_row))
    back = unpack(parts)
    assert back.shape == shape
    assert back.dtype == dtype
    assert torch.equal(as_integers(back.to_dense()), as_integers(tensor))
    assert parts["compressed"].numel() == int(tensor.ne(0).sum())


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 9), n=st.integers(0, 21), dtype=st.sampled_from(TYPES), seed=st.integers(0, 999))
def test_the_format_keeps_explicit_zeros(rows, n, dtype, seed) -> None:
    weight = random_tensor((rows, n), dtype, 0.5, seed)
    mask = torch.rand(rows, n, generator=torch.Generator().manual_seed(seed)) < 0.6
    values = as_integers(weight)[mask].view(dtype)
    tensor = SparseTensor((rows, n), values, Packed.from_dense(mask.to(torch.uint8)).matrix.bits)
    form = lookup("format", "sparse-bitmask").factory()
    assert form.fits(mask) is None
    back = form.unpack(form.pack(tensor))
    assert torch.equal(back.mask, mask)
    assert torch.equal(as_integers(back.values), as_integers(values))


def test_special_values_survive_and_minus_zero_becomes_zero() -> None:
    weight = torch.tensor([[float("nan"), float("inf"), -0.0, 0.0, 1e-45]])
    parts = pack(Packed.from_dense(weight))
    assert parts["compressed"].numel() == 3
    back = unpack(parts).to_dense()
    assert back[0, 0].isnan()
    assert back[0, 1].isinf()
    assert not torch.signbit(back[0, 2])
    assert back[0, 4] == weight[0, 4]


def test_fits_says_why_not() -> None:
    assert "rank 3" in Bitmask().fits(torch.ones(1, 2, 3, dtype=torch.bool))


def test_popcount_counts_every_byte() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(-1, 1)
    assert popcount(every).tolist() == [bin(i).count("1") for i in range(256)]


HOSTILE = {
    "a missing part": lambda p: p.pop("compressed"),
    "a value too few": lambda p: p.update(compressed=p["compressed"][:-1]),
    "a value too many": lambda p: p.update(compressed=torch.cat([p["compressed"], p["compressed"]])),
    "a padding bit": lambda p: p["bitmask"][0].__setitem__(1, 128),
    "a moved bit": lambda p: p["bitmask"].copy_(torch.tensor([[18, 0], [1, 3]])),
    "an offset": lambda p: p["row_offsets"].__setitem__(1, 2),
    "a negative offset": lambda p: p["row_offsets"].__setitem__(0, -1),
    "offsets of a total": lambda p: p.update(row_offsets=torch.tensor([0, 3, 5])),
    "offsets of another type": lambda p: p.update(row_offsets=p["row_offsets"].int()),
    "a bitmask of another type": lambda p: p.update(bitmask=p["bitmask"].to(torch.int8)),
    "a bitmask of another shape": lambda p: p.update(bitmask=p["bitmask"].reshape(4, 1)),
    "values of rank 2": lambda p: p.update(compressed=p["compressed"].reshape(5, 1)),
    "values that are bool": lambda p: p.update(compressed=p["compressed"].bool()),
    "a negative size": lambda p: p.update(shape=torch.tensor([-2, -10])),
    "a swapped shape": lambda p: p.update(shape=torch.tensor([10, 2])),
    "a wider shape": lambda p: p.update(shape=torch.tensor([2, 17])),
    "an overflowing shape": lambda p: p.update(shape=torch.tensor([2**40, 2**40])),
    "a shape of floats": lambda p: p.update(shape=torch.tensor([2.0, 10.0])),
    "a shape of rank 2": lambda p: p.update(shape=torch.tensor([[2], [10]])),
    "a shape of many axes": lambda p: p.update(shape=torch.ones(100, dtype=torch.int64)),
    "rows that cost no byte": lambda p: p.update(
        shape=torch.tensor([2**40, 0]), bitmask=torch.empty(2**40, 0, dtype=torch.uint8), compressed=torch.empty(0)
    ),
}


WHY = {
    "a missing part": r"the parts \['compressed'\] are missing",
    "a value too few": r"marks 5 entries but 4 values",
    "a value too many": r"marks 5 entries but 10 values",
    "a padding bit": r"padding bits of the bitmask are set",
    "a moved bit": r"row offsets do not agree",
    "an offset": r"row offsets do not agree",
    "a negative offset": r"row offsets do not agree",
    "offsets of a total": r"has 3 row offsets for 2 rows",
    "offsets of another type": r"its row offsets are torch\.int32",
    "a bitmask of another type": r"the bitmask is torch\.int8",
    "a bitmask of another shape": r"a bitmask of shape \(4, 1\) does not belong",
    "values of rank 2": r"the values have rank 2, not 1",
    "values that are bool": r"values of type torch\.bool are not supported",
    "a negative size": r"has a negative size",
    "a swapped shape": r"does not belong to a tensor of shape \(10, 2\)",
    "a wider shape": r"does not belong to a tensor of shape \(2, 17\)",
    "an overflowing shape": r"is too large",
    "a shape of floats": r"its shape is torch\.float32",
    "a shape of rank 2": r"its shape is stored as \(2, 1\)",
    "a shape of many axes": r"its shape is stored as \(100,\)",
    "rows that cost no byte": r"row offsets for 1099511627776 rows",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_wrong_part_is_refused_and_the_tensor_named(what) -> None:
    parts = pack(Packed.from_dense(GOLDEN))
    HOSTILE[what](parts)
    with pytest.raises(FileError, match=rf"tensor 'encoder\.query': .*{WHY[what]}.*; .*get it again"):
        unpack(parts, "encoder.query")


@pytest.mark.parametrize("size", [-1, -5])
def test_a_vector_of_negative_size_is_refused_though_its_bitmask_fits(size: int) -> None:
    """`(-5 + 7) // 8` bytes are none, as in the file."""
    none = torch.zeros(0, dtype=torch.uint8)
    parts = {
        "shape": torch.tensor([size]),
        "compressed": torch.zeros(0),
        "bitmask": none,
        "row_offsets": torch.tensor(0),
    }
    with pytest.raises(FileError, match="negative size"):
        unpack(parts, "bias")


def test_limits_of_the_shape() -> None:
    """2**48 entries at most, and eight axes; empty axes count as one, so that nothing hides behind them."""
    none = torch.zeros(0, dtype=torch.uint8)

    def refused(*shape: int) -> str:
        parts = {
            "shape": torch.tensor(shape),
            "compressed": torch.zeros(0),
            "bitmask": none,
            "row_offsets": none.long(),
        }
        with pytest.raises(FileError) as caught:
            unpack(parts)
        return str(caught.value)

    assert "does not belong" in refused(2**48, 0) and "does not belong" in refused(*[1] * 8)
    assert "too large" in refused(2**48 + 1, 0) and "too large" in refused(0, 0, 2**25, 2**24)
    assert "stored as (9,)" in refused(*[1] * 9)


def test_a_bitmask_of_many_rows_is_counted_to_its_end() -> None:
    bits = torch.zeros(5, 2**15, dtype=torch.uint8)  # two rows at a time
    bits[:, 0] = torch.tensor([1, 3, 7, 15, 31], dtype=torch.uint8)
    bits[4, -1] = 0xFF
    assert popcount(bits).tolist() == [1, 2, 3, 4, 13]
    wide = torch.ones(2, 2**20 + 1, dtype=torch.uint8)  # not even one row at a time
    assert popcount(wide).tolist() == [2**20 + 1] * 2
    assert popcount(bits[:0]).tolist() == [] and popcount(bits[:, :0]).tolist() == [0] * 5
    assert popcount(bits).dtype == torch.int64


def test_a_bitmask_of_one_long_row_is_counted_to_its_end() -> None:
    bits = torch.randint(0, 256, (2, 3 * 2**16 + 5), dtype=torch.uint8)
    for part in (bits, bits[:, : 2**16], bits[:, : 2**16 + 1]):
        assert popcount(part).tolist() == [sum(int(byte).bit_count() for byte in row) for row in part.tolist()]


def test_parts_of_a_bitmask_are_64_kibibytes_at_most_and_no_smaller_than_that() -> None:
    sizes = {0: 2**16, 1: 2**16, 3: 21_845, 2**15: 2, 2**16 - 1: 1, 2**16: 1, 2**16 + 1: 1, 2**21: 1}
    assert {width: rows_at_once(width) for width in sizes} == sizes
    bits = torch.randint(0, 256, (5, 2**15), dtype=torch.uint8)
    assert [len(part) for part in by_parts(bits)] == [2, 2, 1] and torch.equal(torch.cat(by_parts(bits)), bits)


def test_a_tensor_is_cut_by_its_first_axis_unless_otherwise_told() -> None:
    cube = torch.ones(2, 3, 4)
    packed = Packed.from_dense(cube)
    assert packed.by_row and packed.matrix.shape == (2, 12) and Packed(packed.shape, packed.matrix).by_row


def test_offsets_and_shapes_of_both_cuts() -> None:
    cube = torch.arange(24.0).reshape(2, 3, 4) % 3
    by_row, by_run = (pack(Packed.from_dense(cube, by_row=cut)) for cut in (True, False))
    assert by_row["bitmask"].shape == (2, 2) and by_row["row_offsets"].tolist() == [0, 8]
    assert by_run["bitmask"].shape == (2, 3, 1) and by_run["row_offsets"].tolist() == [[0, 0, 0], [2, 3, 3]]
    assert unpack(by_row).by_row and not unpack(by_run).by_row
    assert all(torch.equal(unpack(parts).to_dense(), cube) for parts in (by_row, by_run))
    by_row["row_offsets"][1] = 7
    with pytest.raises(FileError, match="row offsets do not agree"):
        unpack(by_row)
    by_run["row_offsets"].zero_()  # the peer's offsets of higher ranks say nothing
    assert torch.equal(unpack(by_run).to_dense(), cube)


def test_a_tensor_of_eight_columns_has_no_padding_to_check() -> None:
    full = torch.ones(3, 8)
    parts = pack(Packed.from_dense(full))
    assert parts["bitmask"].tolist() == [[255]] * 3
    assert torch.equal(unpack(parts).to_dense(), full)
    last = torch.zeros(2, 9)
    last[1, 8] = 5.0
    assert torch.equal(unpack(pack(Packed.from_dense(last))).to_dense(), last)


def test_what_has_no_zeros_is_refused() -> None:
    with pytest.raises(DTypeError, match=r"torch\.bool has no zeros to leave out"):
        Packed.from_dense(torch.ones(2, 2).bool())


@pytest.mark.parametrize("width", [1, 3, 9, 4096])
def test_dense_again_by_parts(width: int) -> None:
    """Rows of few bits, more of them than are looked at together; one kept entry says which row it is."""
    rows = 3 * 2**16 // -(-width // 8) + 5
    entries = torch.arange(rows * width, dtype=torch.int32).reshape(rows, width)
    entries[torch.rand(rows, width, generator=torch.Generator().manual_seed(0)) < 0.7] = 0
    assert torch.equal(Packed.from_dense(entries.float()).to_dense(), entries.float())
    assert torch.equal(Packed.from_dense(torch.zeros(rows, width)).to_dense(), torch.zeros(rows, width))
