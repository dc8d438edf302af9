"""The scaffold in a copy of the package: it fails as written, and passes once the blanks are filled."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["score", "allocation", "pattern", "schedule", "solver", "method"]
FOLDER = {kind: "pruning" if kind == "method" else f"{kind}s" for kind in KINDS}
SOURCES = [f"src/rarefy/{FOLDER[kind]}/my_{kind}.py" for kind in KINDS]
TESTS = [f"tests/{FOLDER[kind]}/test_my_{kind}.py" for kind in KINDS]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """src, tests of the contracts, and the configuration, copied."""
    leave = shutil.ignore_patterns(
        "__pycache__", "*.so", "engine", "recipes", "cli", "finetuning", "training", "analysis"
    )
    shutil.copytree(ROOT / "src" / "rarefy", tmp_path / "src" / "rarefy", ignore=leave)
    (tmp_path / "src" / "rarefy" / "__init__.py").write_text("")
    for part in ("contracts", "solvers"):
        shutil.copytree(ROOT / "tests" / part, tmp_path / "tests" / part, ignore=leave)
    for name in ("conftest.py", "typecheck.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(where / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=where, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def new(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(where, str(ROOT / "tools" / "new.py"), *arguments, "--root", str(where))


def test_scaffolds_are_well_formed_say_what_to_do_and_fail_until_they_are_filled_in(checkout: Path) -> None:
    for kind, test in zip(KINDS, TESTS, strict=True):
        made = new(checkout, f"my-{kind}", "--kind", kind)
        assert made.returncode == 0, made.stderr
        assert test in made.stdout
        assert "FILL IN" in made.stdout
    tested = run(checkout, "-m", "pytest", "-p", "no:xdist", *TESTS)
    assert tested.returncode == 1, tested.stdout[-2000:]
    assert f"{len(KINDS)} failed" in tested.stdout
    assert "passed" not in tested.stdout
    assert tested.stdout.count("NotImplementedError: FILL IN") >= len(KINDS)
    if importlib.util.find_spec("ruff"):  # style is checked where the tool is there, as in `make check`
        for command in (["check"], ["format", "--check"]):
            done = run(checkout, "-m", "ruff", *command, *SOURCES, *TESTS)
            assert done.returncode == 0, done.stdout


def test_contracts_fail_too_until_it_is_filled_in(checkout: Path) -> None:
    new(checkout, "my-method", "--kind", "score")
    tested = run(checkout, "-m", "pytest", "-p", "no:xdist", "tests/contracts/test_every_score.py", "-k", "my-method")
    assert tested.returncode == 1, tested.stdout[-2000:]
    assert "passed" not in tested.stdout


def test_filled_in_it_passes_its_own_check_and_the_contracts(checkout: Path) -> None:
    new(checkout, "my-method", "--kind", "score")
    source = checkout / "src" / "rarefy" / "scores" / "my_method.py"
    text = source.read_text().replace('raise NotImplementedError("FILL IN")', "return -weight.abs()")
    source.write_text(text.replace("FILL IN: Author et al. year", "Nobody et al. 2026"))
    test = checkout / "tests" / "scores" / "test_my_method.py"
    lines = [line for line in test.read_text().splitlines() if "NotImplementedError" not in line]
    at = next(i for i, line in enumerate(lines) if "found =" in line)
    lines.insert(at + 1, "    assert (found <= 0).all()")
    test.write_text("\n".join(lines) + "\n")
    tested = run(
        checkout, "-m", "pytest", "-p", "no:xdist", str(test), "tests/contracts/test_every_score.py", "-k", "my"
    )
    assert tested.returncode == 0, tested.stdout[-2000:]


def test_nothing_is_overwritten_and_bad_ids_are_refused(checkout: Path) -> None:
    again = new(checkout, "magnitude", "--kind", "score")
    assert again.returncode != 0
    assert "src/rarefy/scores/magnitude.py exists" in again.stderr
    for id in ("MyMethod", "my_method", "../evil", ""):
        refused = new(checkout, id, "--kind", "score")
        assert refused.returncode != 0
        assert "is no id" in refused.stderr
