"""Every main call leaves the process as it found it: threads, denormals, generators, modes, signals, logging, ..."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("state_program.py")
NAMES = (
    *("prune with wanda", "prune with sparsegpt", "prune with random", "prune with ria", "prune with alps"),
    *("train with rigl", "train with set", "train with acdc", "save and load", "compile", "generate"),
    *("select activations", "compare", "load a Hugging Face model", "refuse", "compile a convnet", "benchmark"),
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("state")
    done = run(str(PROGRAM), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads((folder / "found.json").read_text())
    assert set(told) == set(NAMES)
    return told


@pytest.mark.parametrize("name", NAMES)
def test_a_call_changes_nothing_of_the_process(name: str, found: dict[str, Any]) -> None:
    assert found[name] == {}
