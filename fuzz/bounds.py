"""What a call on a file may cost: a second of computing, and memory of twice the file above a constant.

The limit is on addresses, so that an allocation which nothing ever touches counts too; the reader's own mappings of the
file are allowed beside it. A refusal that was really a failed allocation is found by what it says.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rarefy.core.errors import RarefyError

FLOOR = 64 * 2**20
"""Bytes above twice the file: what Python, torch and the allocator take for a file of any size."""
LONGEST = 1.0  # seconds of computing
_MAPPINGS = 2  # of the file, by the library that reads safetensors and by torch
_FAILED = ("memory", "alloc")  # words of MemoryError, torch and the native module


def bounded(call: Callable[[], Any], size: int) -> Any:
    """What the call on `size` bytes gave, None where it raised a RarefyError. AssertionError where it cost too much."""
    before, start = _addresses(), time.process_time()
    most = before + (2 + _MAPPINGS) * size + FLOOR
    found, refused = None, None
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        found = call()
    except RarefyError as error:
        refused = error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    took = time.process_time() - start
    assert took < LONGEST, f"took {took:.1f} s for {size} bytes"
    if refused is not None:
        assert str(refused)
        _require_no_lack(refused, size)
    return found


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
