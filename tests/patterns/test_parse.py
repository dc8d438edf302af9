import importlib
import sys

import pytest

import rarefy.patterns
from rarefy.core.errors import ShapeError, SparsityError, UnknownNameError
from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.grouped_nm import GroupedNM
from rarefy.patterns.nm import NM
from rarefy.patterns.parse import parse_pattern
from rarefy.patterns.unstructured import Layerwise, Rowwise


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("unstructured", Layerwise()),
        ("layerwise", Layerwise()),
        ("rowwise", Rowwise()),
        ("fanin", FanIn()),
        ("2:4", NM(2, 4)),
        ("4:8", NM(4, 8)),
        ("2:4:8", GroupedNM(2, 4, 8)),
        ("block:4x1", Block(4, 1)),
        ("block:16x16", Block(16, 16)),
    ],
)
def test_names_become_patterns_and_patterns_print_as_names(name: str, pattern: Pattern) -> None:
    assert parse_pattern(name) == pattern
    if ":" in name:
        assert str(pattern) == name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("unstuctured", "unstructured"),
        ("block4x1", "block:4x1"),
        ("2;4", "2:4"),
        ("fan-in", "fanin"),
        ("row", "rowwise"),
    ],
)
def test_unknown_names_come_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean.*'{near}'"):
        parse_pattern(name)


def test_names_of_impossible_patterns() -> None:
    with pytest.raises(SparsityError, match="n <= m"):
        parse_pattern("5:4")
    with pytest.raises(ShapeError, match="at least 1"):
        parse_pattern("block:0x4")


def test_every_file_of_the_package_is_imported_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a new pattern is found without being listed anywhere."""
    monkeypatch.delitem(sys.modules, "rarefy.patterns.fixed")
    importlib.reload(rarefy.patterns)
    assert "rarefy.patterns.fixed" in sys.modules
