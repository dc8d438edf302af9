"""The figures, charts and formulas of docs/ against the tables that they come from."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
MLP = "benchmarks/engine/results/mlp-vnni.md"
NAMES = ("tables", "figures", "chart", "charts", "formulas")


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, ModuleType]]:
    """The scripts of tools/ as modules, forgotten afterwards."""
    sys.path.insert(0, str(ROOT / "tools"))
    yield {name: import_module(name) for name in NAMES}
    sys.path.remove(str(ROOT / "tools"))
    for name in NAMES:
        sys.modules.pop(name)


def test_every_quoted_figure_is_that_of_its_table(tools: dict[str, ModuleType]) -> None:
    counts = {}
    for name in tools["figures"].PAGES:
        text = (ROOT / name).read_text("utf-8")
        new, wrong = tools["figures"].renewed(text)
        assert not wrong
        assert new == text
        counts[name] = tools["figures"].quoted(text)
    assert counts["docs/choosing.md"] > 150 and counts["docs/anchors.md"] > 90


def test_the_page_of_choices_shows_no_figure_of_its_own() -> None:
    """Every number with decimals on it is a link to the cell that it comes from."""
    text = (ROOT / "docs" / "choosing.md").read_text("utf-8")
    own = re.sub(r"`[^`]*`|\[[^\]]*\]\([^)\s]+( \"[^\"]*\")?\)", "", text)
    assert re.findall(r"\d+\.\d+", own) == []


@pytest.mark.parametrize(
    ("quoted", "problem"),
    [
        (f'[2.3](../{MLP} "batch=128 > zeros=70% > x best dense")', "'2.3' is '2.2'"),
        (f'[2.2](../{MLP} "batch=128 > x best dense")', "names 5 cells"),
        (f'[2.2](../{MLP} "batch=128 > zeros=70% > x nobody")', "names 0 cells"),
    ],
)
def test_a_figure_that_is_not_the_tables_is_told(tools: dict[str, ModuleType], quoted: str, problem: str) -> None:
    _, [wrong] = tools["figures"].renewed(f"so {quoted} times")
    assert problem in wrong


def test_a_stale_figure_is_renewed_and_keeps_its_form(tools: dict[str, ModuleType]) -> None:
    stale = f'so [9.99x](../{MLP} "batch=128 > zeros=70% > x best dense") times'
    new, _ = tools["figures"].renewed(stale)
    assert new == stale.replace("9.99x", "2.16x")


def test_the_charts_are_those_of_the_tables_and_say_what_they_show(tools: dict[str, ModuleType]) -> None:
    page = (ROOT / "docs" / "engine-charts.md").read_text("utf-8")
    for chart in tools["charts"].charts():
        path = ROOT / "docs" / "img" / f"{chart.name}.svg"
        assert path.read_text("utf-8") == tools["chart"].svg(chart), f"{path.name}: run `make index`"
        assert f"(img/{chart.name}.svg)" in page
        drawn = ElementTree.parse(path).getroot()
        dots = [e for e in drawn.iter() if e.tag.endswith("circle")]
        assert len(dots) == sum(len(points) for points in chart.lines.values())
        assert "prefers-color-scheme: dark" in path.read_text("utf-8")


def test_a_larger_value_is_drawn_higher(tools: dict[str, ModuleType]) -> None:
    chart = tools["chart"].Chart("c", "C", "ms", {"a": [(50, 1.0), (90, 8.0)], "b": [(50, 2.0), (90, 2.0)]}, "says")
    drawn = ElementTree.fromstring(tools["chart"].svg(chart))
    heights = [float(e.get("cy", "")) for e in drawn.iter() if e.tag.endswith("circle")]
    assert heights[1] < heights[2] == heights[3] < heights[0]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("$w_i^2$", "<i>w</i><sub><i>i</i></sub><sup>2</sup>"),
        (r"$\frac{\alpha}{r} B$", "α/<i>r</i> <i>B</i>"),
        (r"$\frac{a + b}{2}$", "(<i>a</i> + <i>b</i>)/2"),
        (r"$\mathrm{sd}|w|$", "sd&#124;<i>w</i>&#124;"),
    ],
)
def test_formulas_become_html(tools: dict[str, ModuleType], text: str, html: str) -> None:
    assert tools["formulas"].formulas_to_html(text) == f'<span class="formula">{html}</span>'


def test_what_is_no_formula_stays(tools: dict[str, ModuleType]) -> None:
    for text in ("costs $5 and $6", "`$PATH` and `$HOME`", "a | b"):
        assert tools["formulas"].formulas_to_html(text) == text
    with pytest.raises(ValueError, match="iiint is not known"):
        tools["formulas"].formulas_to_html(r"$\iiint x$")


def test_the_site_has_the_tables_its_pages_lead_to(tools: dict[str, ModuleType]) -> None:
    structure = pytest.importorskip("mkdocs.structure.files")
    pages = import_module("pages")
    sys.modules.pop("pages")
    files = pages.on_files(structure.Files([]), SimpleNamespace(site_dir="site"))
    assert files.get_file_from_path(MLP).url == MLP.replace(".md", ".html")

    def shown(uri: str, text: str) -> str:
        return str(pages.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=uri)), files))

    assert shown("choosing.md", f"[2.2](../{MLP})") == f"[2.2]({MLP})"
    assert shown("tutorials/engine.md", f"[2.2](../../{MLP})") == f"[2.2](../{MLP})"
    assert shown("engine.md", f"in `{MLP}`") == f"in [`{MLP}`]({MLP})"
    assert shown("comparing.md", "`benchmarks/quality`") == "[`benchmarks/quality`](benchmarks/quality/results.md)"
    kept = f"`benchmarks/engine/mlp.py`\n```\n$x$ and [a](../{MLP})\n```\n"
    assert shown("engine.md", kept) == kept
