import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = """# Speeds
## On one core
| name | zeros | ms | ms |
|---|---|---|---|
| ours | 50% | **1.25** [1.3] | 2 |
| ours | 90% | 0.5 ± 0.1 | 3 |

## On two
| name | zeros | ms |
|---|---|---|
| ours | 50% | 7 |

- met: twice as fast: wanted 2.00, got 2.45
- took 12 s.
"""


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables_under_test", ROOT / "tools" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "tables_under_test", module)
    spec.loader.exec_module(module)
    (tmp_path / "speeds.md").write_text(PAGE)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.mark.parametrize(
    ("selector", "cell"),
    [
        ("one core:: ours > zeros=50% > ms", "1.25 [1.3]"),
        ("one core:: ours > zeros=90% > ms", "0.5 ± 0.1"),
        ("one core:: zeros=90% > ms#2", "3"),
        ("Speeds / On two:: ours > ms", "7"),
        ("line: twice as fast", "2.45"),
        ("line: - took", "12"),
    ],
)
def test_a_selector_names_one_cell(tables: ModuleType, selector: str, cell: str) -> None:
    assert tables.figure("speeds.md", selector) == cell


@pytest.mark.parametrize(
    "selector", ["zeros=50% > ms", "one core:: ours > ms", "On two:: ours > s", "On two:: theirs > ms", "line: zeros"]
)
def test_a_selector_that_names_none_or_several_is_an_error(tables: ModuleType, selector: str) -> None:
    with pytest.raises(ValueError, match=r"speeds\.md"):
        tables.figure("speeds.md", selector)


@pytest.mark.parametrize(
    ("cell", "like", "text"),
    [
        ("2.445", "2.4x", "2.4x"),
        ("2.445", "2.00", "2.45"),
        ("5.20", "0 times", "5 times"),
        ("-0.26 (1 of 3)", "+1.0", "-0.3"),
    ],
)
def test_a_figure_is_rounded_like_the_text(tables: ModuleType, cell: str, like: str, text: str) -> None:
    assert tables.rounded(cell, like) == text
