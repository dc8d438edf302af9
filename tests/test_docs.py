"""README and docs: every block says what it is and the python runs, local links lead somewhere, pictures are whole."""

import contextlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from rarefy.core import registry
from rarefy.ops import available

registry.load_all()  # before a page may register something of its own
ROOT = Path(__file__).resolve().parents[1]
NATIVE = {"engine.md", "pruning.md", "training.md"}  # kernels by name, a target speed, a sparse runtime
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

LABELS = {"python", "bash"}  # of blocks; only those marked python run


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@contextlib.contextmanager
def prepared(page: Path, folder: Path) -> Iterator[dict[str, str]]:
    """What the page says the reader has: {what stands in its blocks: what stands for it here}."""
    if page.name != "serving.md":
        yield {}
        return
    for package in ("fastapi", "uvicorn", "prometheus_client", "openai", "transformers"):
        pytest.importorskip(package)
    from rarefy.serving.limits import Limits
    from serving.conftest import running
    from serving.tiny import write_encoder

    with running(write_encoder(folder / "carried", folder / "sparse-bert"), Limits()) as server:
        yield {"127.0.0.1:8000": f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    """So that no python hides in a block without a label, under another name, or indented, where nobody runs it."""
    text = re.sub(r"^```(\w+)\n.*?^```$", r"\1", page.read_text("utf-8"), flags=re.M | re.S)
    assert not re.search(r"^.*(```|~~~).*$", text, flags=re.M), f"{page.name}: a block without a label, or indented"
    labels = set(re.findall(r"^```(\w+)\n.*?^```$", page.read_text("utf-8"), flags=re.M | re.S))
    assert labels <= LABELS, f"{page.name}: blocks are marked {sorted(LABELS)}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in NATIVE and not available():
        pytest.skip("the page shows what native kernels do")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_INDEX", dict(registry._INDEX))
    names = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    with prepared(page, tmp_path) as stands_for:
        for i, block in enumerate(blocks(page)):
            for said, here in stands_for.items():
                assert said in block, f"{page.name}: nothing in block {i + 1} is prepared"
                block = block.replace(said, here)
            exec(compile(block, f"{page.name}, block {i + 1}", "exec"), names)


def test_the_pages_that_show_code_are_found() -> None:
    shown = {p.name for p in PAGES if blocks(p)}
    assert {"README.md", "getting-started.md", "adding-a-method.md", "pruning.md", "engine.md"} <= shown


def test_every_tutorial_ends_with_something_measured() -> None:
    pages = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
    listed = (ROOT / "docs" / "tutorials" / "index.md").read_text("utf-8")
    for page in (p for p in pages if p.name != "index.md"):
        assert f"({page.name})" in listed
        assert len(blocks(page)) >= 3, page.name
        assert any("print(" in block for block in blocks(page)[-2:]), page.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_local_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_the_picture_is_well_formed_and_described() -> None:
    for picture in (ROOT / "docs" / "img").glob("*.svg"):
        root = ElementTree.parse(picture).getroot()
        assert root.tag.endswith("svg")
        assert any(child.tag.endswith("desc") for child in root)


def test_the_readme_has_one_place_for_the_measured_table() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("<!-- measured: begin") == 1
    assert text.count("<!-- measured: end -->") == 1
    assert text.index("measured: begin") < text.index("measured: end")


def test_nothing_names_a_path_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(^|[\s(`])/(home|root|work|tmp)/", page.read_text("utf-8")), page.name
