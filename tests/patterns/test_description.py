"""What every pattern says of itself, what it counts, and what it refuses to count."""

import pytest
import torch

from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.divide import require_tiles
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.grouped_nm import GroupedNM, all_ways
from rarefy.patterns.nm import NM
from rarefy.patterns.padded import PaddedNM
from rarefy.patterns.parse import parse_pattern
from rarefy.patterns.transposable import Transposable, transposable_ways
from rarefy.patterns.unstructured import Layerwise, Rowwise

SAID = [
    (Layerwise(), (1, 1), None, None),
    (Rowwise(), (1, 1), None, None),
    (FanIn(), (1, 1), None, None),
    (Block(4, 3), (4, 3), None, None),
    (NM(1, 4), (1, 4), 4, 0.25),
    (PaddedNM(2, 5), (1, 1), 5, 0.4),
    (GroupedNM(2, 4, 8), (1, 192), 192, 0.5),
    (GroupedNM(1, 3, 2), (1, 18), 18, 1 / 3),
    (Transposable(3, 8), (8, 8), 8, 0.375),
]


@pytest.mark.parametrize(("pattern", "tile", "span", "density"), SAID, ids=lambda v: str(v))
def test_tile_span_and_only_density(pattern: Pattern, tile: tuple[int, int], span: int | None, density) -> None:
    assert (pattern.granularity, pattern.span, fixed_density(pattern)) == (tile, span, density)


COUNTED = [
    (Block(4, 2), 8, 6, 0.5, 48 // 2),
    (Block(4, 2), 8, 6, 0.2, 8),
    (Block(4, 2), 16, 10, 0.5, 80),
    (NM(1, 4), 3, 8, 0.25, 6),
    (NM(2, 4), 3, 8, 0.5, 12),
    (FanIn(), 3, 10, 0.34, 9),
    (GroupedNM(1, 2, 1), 3, 8, 0.5, 12),
    (GroupedNM(1, 3, 2), 2, 18, 1 / 3, 12),
    (Transposable(1, 4), 4, 12, 0.25, 12),
    (Transposable(2, 4), 8, 4, 0.5, 16),
]


@pytest.mark.parametrize(("pattern", "rows", "n", "density", "count"), COUNTED, ids=str)
def test_counts(pattern: Pattern, rows: int, n: int, density: float, count: int) -> None:
    assert pattern.count(rows, n, density) == count == int(pattern.select(torch.rand(rows, n), density).sum())


@pytest.mark.parametrize("pattern", [p for p, tile, *_ in SAID if tile != (1, 1)], ids=str)
def test_what_does_not_divide_is_neither_counted_nor_judged(pattern: Pattern) -> None:
    rows, n = pattern.granularity
    density = fixed_density(pattern) or 0.5
    for call in (lambda: pattern.count(rows, n + 1, density), lambda: pattern.allows(torch.zeros(rows, n + 1).bool())):
        with pytest.raises(ShapeError, match=r"columns \(in\), not a multiple of"):
            call()


@pytest.mark.parametrize("pattern", [p for p, *_, density in SAID if density is not None], ids=str)
def test_another_density_is_not_counted(pattern: Pattern) -> None:
    rows, n = pattern.granularity[0], pattern.span
    with pytest.raises(SparsityError, match=r"of the weights, but density 0\.9 was asked"):
        pattern.count(rows, n, 0.9)


@pytest.mark.parametrize(("pattern", "rows", "n", "density", "count"), COUNTED, ids=str)
def test_what_is_selected_is_allowed(pattern: Pattern, rows: int, n: int, density: float, count: int) -> None:
    assert pattern.allows(pattern.select(torch.rand(rows, n), density))


@pytest.mark.parametrize("pattern", [p for p, *_, density in SAID if density is not None], ids=str)
def test_a_density_that_is_off_by_one_percent_is_told_from_the_only_one_in_a_large_matrix(pattern: Pattern) -> None:
    rows, n, near = 64, 2 * pattern.span, 1.01 * fixed_density(pattern)
    for call in (lambda: pattern.count(rows, n, near), lambda: pattern.select(torch.rand(rows, n), near)):
        with pytest.raises(SparsityError, match="was asked"):
            call()


def test_the_error_lists_what_would_divide() -> None:
    with pytest.raises(ShapeError, match=r"has 12 columns \(in\), .* 5; choose from \[1, 2, 3, 4, 6, 12\]"):
        require_tiles("p", (1, 5), 3, 12)
    with pytest.raises(ShapeError, match=r"has 128 rows \(out\), .* from \[1, 2, 4, 8, 16, 32, 64\] or leave"):
        require_tiles("p", (3, 1), 128, 4)
    with pytest.raises(ShapeError, match=r"choose from \[1, 5, 13\] or"):
        require_tiles("p", (3, 1), 65, 4)
    require_tiles("p", (3, 2), 6, 4)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("1:16", NM(1, 16)), ("12:16+", PaddedNM(12, 16)), ("t2:8", Transposable(2, 8)), ("block:2x16", Block(2, 16))],
)
def test_numbers_go_to_their_places(name: str, pattern: Pattern) -> None:
    assert parse_pattern(name) == pattern and str(pattern) == name


def test_limits_of_the_numbers() -> None:
    assert GroupedNM(1, 256, 1).ways == 256 and Block(1, 1).count(2, 2, 1.0) == 4 and NM(4, 4).density == 1.0
    assert Transposable(31, 32).density == 31 / 32
    for make, numbers in (
        (GroupedNM, (1, 257, 1)), (GroupedNM, (0, 2, 1)), (GroupedNM, (2, 2, 1)), (GroupedNM, (1, 2, 0)),
        (Transposable, (1, 33)), (Transposable, (0, 4)), (Transposable, (4, 4)),
    ):  # fmt: skip
        with pytest.raises(SparsityError):
            make(*numbers)


def test_ways_come_in_their_order() -> None:
    assert all_ways(1, 3).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert all_ways(2, 3).int().tolist() == [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    assert transposable_ways(1, 2).int().tolist() == [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]
    assert transposable_ways(1, 2).dtype == torch.bool
