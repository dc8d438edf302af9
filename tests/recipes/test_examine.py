"""What `rarefy doctor` finds out about the process and its machine."""

import json
import os
import subprocess
import sys

import pytest

from rarefy.cli.doctor import _said
from rarefy.recipes.examine import openmp_runtimes

_MAPS = """\
7f00-7f01 r--p 00000000 08:01 11                         /a/lib/libgomp.so.1
7f01-7f02 r-xp 00001000 08:01 11                         /a/lib/libgomp.so.1
7f02-7f03 r-xp 00001000 08:01 12                         /with a space/libgomp.so.1
7f03-7f04 r-xp 00001000 08:02 11                         /c/libgomp-a34b3233.so.1.0.0 (deleted)
7f04-7f05 r-xp 00001000 08:01 11                         /b/lib/libgomp.so.1
7f05-7f06 r--p 00000000 08:01 13                         /only/read/libiomp5.so
7f06-7f07 r-xp 00001000 08:01 14                         /a/libgomp.so/other.so
7f07-7f08 r-xp 00001000 00:00 0                          /d/libomp.so
7f08-7f09 r-xp 00001000 00:00 0                          /e/libomp.so
7f09-7f0a r-xp 00000000 00:00 0                          [vdso]
7f0a-7f0b rw-p 00000000 00:00 0
"""


def test_runtimes_are_counted_by_file_not_by_name(tmp_path):
    (tmp_path / "maps").write_text(_MAPS)
    assert openmp_runtimes(tmp_path / "maps") == [
        "/a/lib/libgomp.so.1",
        "/c/libgomp-a34b3233.so.1.0.0 (deleted)",
        "/d/libomp.so",
        "/e/libomp.so",
        "/with a space/libgomp.so.1",
    ]


def test_a_system_that_does_not_tell_is_not_one_without_runtimes(tmp_path):
    assert openmp_runtimes(tmp_path / "maps") is None
    assert _said(None) == "unknown"
    (tmp_path / "maps").write_text("")
    assert openmp_runtimes(tmp_path / "maps") == []
    assert _said([]) == "none"


_TWICE = """
import ctypes, json, shutil, sys
import torch
from rarefy.recipes.examine import examine, openmp_runtimes
before = [path for path in openmp_runtimes() or [] if "/libgomp" in path]
if before:
    copy = shutil.copy(before[0], sys.argv[1])
    ctypes.CDLL(copy)
    print(json.dumps({"first": before[0], "copy": copy, "found": examine()}))
"""


def test_a_second_copy_of_a_runtime_is_warned_of(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", _TWICE, str(tmp_path)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    if not done.stdout.strip():
        pytest.skip("torch brings no libgomp here, or the system does not tell")
    said = json.loads(done.stdout.splitlines()[-1])
    assert os.path.basename(said["copy"]) == os.path.basename(said["first"])
    assert {said["first"], said["copy"]} <= set(said["found"]["openmp runtimes"])
    (warning,) = (line for line in said["found"]["slow"] if "OpenMP runtimes are loaded" in line)
    assert said["first"] in warning
    assert said["copy"] in warning
