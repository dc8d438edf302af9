"""Where other programs' environments are: RAREFY_PEERS names the folder, `benchmarks/peers/install.sh` fills it."""

import os
import subprocess
from pathlib import Path

import pytest


def python_of(peer: str) -> Path | None:
    found = Path(os.environ.get("RAREFY_PEERS", "")) / peer / "bin" / "python"
    return found if os.environ.get("RAREFY_PEERS") and found.exists() else None


def needs(peer: str) -> pytest.MarkDecorator:
    why = f"no environment {peer!r}: run benchmarks/peers/install.sh {peer} FOLDER and set RAREFY_PEERS=FOLDER"
    return pytest.mark.skipif(python_of(peer) is None, reason=why)


def run(peer: str, program: Path, *arguments: str | Path) -> None:
    done = subprocess.run(
        [str(python_of(peer)), str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
