"""The pair of CUTLASS kernels against torch's own conversion and that of compressed-tensors."""

import importlib.util
from pathlib import Path

import pytest
import torch

from formats.peers import needs, python_of
from rarefy.core.errors import DTypeError, FileError, ShapeError
from rarefy.formats.semi_structured import _positions, from_pair, to_pair

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.int8]
SHAPES = [(64, 64), (128, 192), (192, 64)]


def half_zero(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """All cases of at most two of four (of float32 one of two), those with less among them."""
    generator = torch.Generator().manual_seed(rows + columns)
    of = 2 if dtype == torch.float32 else 4
    order = torch.rand(rows, columns // of, of, generator=generator).argsort(-1)
    most = torch.randint(0, of // 2 + 1, (rows, columns // of, 1), generator=generator)
    value = torch.randint(1, 100, (rows, columns), generator=generator)
    return (value * (order < most).reshape(rows, columns)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_pair_of_torch(dtype, shape) -> None:
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass as peer

    weight = half_zero(*shape, dtype)
    values, meta = to_pair(weight)
    expected = peer(weight)
    assert meta.dtype == expected[1].dtype and torch.equal(values, expected[0]) and torch.equal(meta, expected[1])
    assert torch.equal(from_pair(values, meta), weight)
    other = to_pair(weight, "compressed-tensors")
    assert torch.equal(from_pair(*other, "compressed-tensors"), weight) and not torch.equal(other[1], meta)
    assert not torch.equal(from_pair(*other, "torch"), weight), "the two orders are different permutations"


@needs("compressed-tensors")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_pair_of_compressed_tensors(dtype) -> None:
    """Its file of conversions stands alone, so it is run here rather than in a process of its own."""
    folder = Path(python_of("compressed-tensors")).parent.parent
    (file,) = folder.glob("lib/*/site-packages/compressed_tensors/utils/semi_structured_conversions.py")
    spec = importlib.util.spec_from_file_location("peer_conversions", file)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    weight = half_zero(128, 192, dtype)
    values, meta = to_pair(weight, "compressed-tensors")
    expected = peer.sparse_semi_structured_from_dense_cutlass(weight)
    assert torch.equal(values, expected[0]) and torch.equal(meta, expected[1])


def test_the_codes_of_one_group_each() -> None:
    weight = torch.zeros(32, 32, dtype=torch.float16)
    weight[0, :16] = torch.tensor([1, 2, 0, 0, 3, 0, 4, 0, 0, 5, 6, 0, 0, 0, 0, 7])
    values, meta = to_pair(weight)
    assert values[0, :8].tolist() == [1, 2, 3, 4, 5, 6, 0, 7]
    assert meta[0, 0].item() & 0xFFFF == 0b1110_1001_1000_0100


def test_what_does_not_fit_is_refused() -> None:
    full = torch.ones(32, 16)
    with pytest.raises(ShapeError, match="pattern='2:4'"):
        to_pair(full)
    for shape in ((31, 16), (32, 12), (16, 16), (32, 8), (32, 24)):
        with pytest.raises(ShapeError, match="multiple"):
            to_pair(torch.zeros(shape))
    with pytest.raises(ShapeError, match="multiple"):
        to_pair(torch.zeros(32, 16), "compressed-tensors")
    with pytest.raises(DTypeError):
        to_pair(full.double())
    values, meta = to_pair(torch.zeros(32, 16))
    for wrong in (
        (values, meta[:, :1]), (values, meta.int()), (values[:, :4], meta), (values[0], meta), (values[0, 0], meta),
        (values[:, :4], meta[:, :1]), (values[:16], meta[:16]), (values[None], meta), (values, meta[None]),
        (torch.zeros(32, 12), torch.zeros(32, 3, dtype=torch.int16)),
    ):  # fmt: skip
        with pytest.raises(FileError, match="do not fit"):
            from_pair(*wrong)
    with pytest.raises(FileError, match="codes"):
        from_pair(values, torch.zeros_like(meta))


def test_the_first_group_that_is_too_full_is_named() -> None:
    weight = torch.zeros(32, 32, dtype=torch.float16)
    weight[1, 4:7] = 1.0
    weight[3:, :3] = 1.0
    with pytest.raises(ShapeError, match="group 9 of 4 entries is not half zeros"):
        to_pair(weight)


@pytest.mark.parametrize("kind", [torch.int16, torch.int32], ids=str)
def test_where_compressed_tensors_puts_meta(kind) -> None:
    """The six bits of a row within 64 change places; then 2 x 2 blocks are turned, and columns lie two by two."""
    rows, columns = 128, 4
    expected = []
    for row in range(rows):
        bit = [row >> i & 1 for i in range(6)]
        moved = row & ~63 | bit[0] << 1 | bit[1] << 5 | bit[2] | bit[3] << 2 | bit[4] << 3 | bit[5] << 4
        for column in range(columns):
            r, c = (moved & ~1 | column & 1, column & ~1 | moved & 1)
            expected.append((c // 2 * rows + r) * 2 + c % 2)
    assert _positions(rows, columns, kind, "compressed-tensors").tolist() == expected
    assert sorted(expected) == list(range(rows * columns))
