import shutil
import subprocess
import sys
from pathlib import Path

from rarefy.core.registry import entries, load_all

ROOT = Path(__file__).resolve().parents[2]


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_the_page_names_everything_that_is_registered() -> None:
    load_all()
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:3]) for line in page.splitlines() if line.startswith("| `")
    }
    assert rows == {(f"`{e.id}`", e.role) for e in entries() if e.family != "user"}


def test_a_stale_page_fails_the_check_and_writing_it_mends_that(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / "docs" / "methods.md").unlink()
    script = tmp_path / "tools" / "index.py"
    stale = run(script, "--check")
    assert stale.returncode == 1
    assert "run `make index`" in stale.stderr
    assert run(script).returncode == 0
    assert run(script, "--check").returncode == 0
    page = tmp_path / "docs" / "methods.md"
    page.write_text(page.read_text() + "| `gone` |\n")
    assert run(script, "--check").returncode == 1


def test_formulas_and_measured_results_stand_beside_their_method() -> None:
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    rows = {
        tuple(c.strip() for c in line.split("|")[1:3]): line for line in page.splitlines() if line.startswith("| `")
    }
    wanda = rows["`wanda`", "method"]
    assert "`abs(W_ij) norm(X_j), ranked in each row`" in wanda
    table = (ROOT / "benchmarks" / "quality" / "results.md").read_text("utf-8")
    cell = next(line for line in table.splitlines() if line.startswith("| wanda")).split("|")[4].split("[")[0].strip()
    assert f"{cell} bits a byte" in wanda and "(../benchmarks/quality/results.md)" in wanda
    assert "| not measured here |" in rows["`chosen`", "score"]
