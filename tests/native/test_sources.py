"""What only other machines run is compiled here too, so that a change cannot break it unseen."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORTABLE = sorted((ROOT / "native" / "kernels").glob("*/*scalar.cc"))
COMPILER = os.environ.get("CXX") or shutil.which("c++")


@pytest.mark.skipif(COMPILER is None, reason="takes a C++ compiler")
def test_the_vectors_of_arm_fit_every_portable_kernel():
    assert len(PORTABLE) > 20
    options = ["-std=c++20", f"-I{ROOT / 'native'}", "-fsyntax-only", "-DRAREFY_QUAD"]
    done = subprocess.run([str(COMPILER), *options, *map(str, PORTABLE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
