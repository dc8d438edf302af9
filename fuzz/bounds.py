"""What a call on a file may cost and do: a second of computing, memory of twice the file above a constant, reading.

Memory is what was asked for, byte by byte (`counting`), so that pages which the process has already help nobody. An
allocation that would harm the machine is refused beforehand, by a limit on addresses; a refusal that was really a
failed allocation is found by what it says. Nothing is unpickled, run, imported by a name in a file, or opened
elsewhere.
"""

import gc
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counting import Counter
from watched import watched

from rarefy.core.errors import RarefyError

FLOOR = 2**20
"""Bytes above twice the file: objects, messages and tables that a file of any size takes."""
FENCE = 64 * 2**20
"""Bytes of addresses above twice the file: there a process is stopped before it can take the machine's memory."""
LONGEST = 1.0  # seconds of computing
_MAPPINGS = 2  # of the file, by the library that reads safetensors and by torch
_FAILED = ("memory", "alloc")  # words of MemoryError, torch and the native module
_COUNTER = Counter()
_PLACES = tuple({Path(tempfile.gettempdir()), Path("/dev/shm")})


def bounded(call: Callable[[], Any], size: int, *, more: int = 0) -> Any:
    """What the call on `size` bytes gave, None where it raised a RarefyError. AssertionError where it cost too much.

    more: bytes that it may take besides, for what has its own bound. A call that takes too much is made once again:
    what it alone left behind (a module, a table that is made once) is no cost of the file.
    """
    most = (2 * size) + FLOOR + more
    found, took = _measured(call, size, more)
    if took > most:
        _, again = _measured(call, size, more)
        assert again <= most, f"{again} bytes at once for {size} bytes, at most {most}"
    return found


def _measured(call: Callable[[], Any], size: int, more: int) -> tuple[Any, int]:
    """(what the call gave, bytes that it took)"""
    gc.collect(1)
    most = _addresses() + (2 + _MAPPINGS) * size + FENCE + more
    found, refused = None, None
    start = time.process_time()
    with watched(*_PLACES) as seen:
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        _COUNTER.begin()
        try:
            found = call()
        except RarefyError as error:
            refused = error
        finally:
            took = _COUNTER.most()
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    spent = time.process_time() - start
    assert not seen, f"besides reading: {seen[:3]}"
    assert spent < LONGEST, f"took {spent:.1f} s for {size} bytes"
    if refused is not None:
        assert str(refused)
        _require_no_lack(refused, size)
    return found, took


def _addresses() -> int:
    """Bytes of addresses in use."""
    return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()


def _require_no_lack(error: BaseException | None, size: int) -> None:
    """Whatever stands behind a refusal, it is not that memory ran out."""
    while error is not None:
        lacked = isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in _FAILED)
        )
        assert not lacked, f"more than twice {size} bytes were asked for: {error}"
        error = error.__cause__ or error.__context__
