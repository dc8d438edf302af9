"""Bytes that were asked for, exactly: a library in C that is loaded before all others and counts malloc and free.

Resident memory and address space say little of a process that has read ten thousand files: what it allocates next may
lie in pages that it has already. The library is compiled by whoever starts the process, which finds it loaded.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).resolve().parent / "counted.c"


def built(folder: Path) -> Path | None:
    """The library, compiled into a folder; None without a C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    library = folder / "counted.so"
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE], check=True, env=plain)
    return library


def environment(library: Path | None) -> Mapping[str, str]:
    """Of a process that counts: the library behind what is loaded first already, Python's objects from malloc."""
    if library is None:
        return os.environ
    first = [os.environ.get("LD_PRELOAD", ""), str(library)]
    return {**os.environ, "LD_PRELOAD": ":".join(filter(None, first)), "PYTHONMALLOC": "malloc"}


class Counter:
    """Of this process. counts: whether the library is there."""

    def __init__(self) -> None:
        loaded = ctypes.CDLL(None)
        self.counts = hasattr(loaded, "fuzz_begin")
        if self.counts:
            self._begin, self._most = loaded.fuzz_begin, loaded.fuzz_most
            self._begin.restype = self._most.restype = ctypes.c_long
        self._before = 0

    def begin(self) -> None:
        self._before = self._begin() if self.counts else 0

    def most(self) -> int:
        """Bytes that were held at most since `begin`, above what was held then."""
        return int(self._most()) - self._before if self.counts else 0
