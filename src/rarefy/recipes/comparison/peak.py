"""How much more memory a piece of work took than there was in use before it."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rarefy.core.memory import give_back

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """mib: the most above what the process held at the start; None where the system does not tell."""

    mib: float | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measures the peak of resident memory inside the block.

    What the allocator keeps of work done before is given back first, or it would hide what this work takes.
    """
    found = Peak()
    start = _begin()
    try:
        yield found
    finally:
        if start is not None:
            found.mib = max(0.0, _status("VmHWM") - start)


def _begin() -> float | None:
    """MiB in use, the kernel's peak reset to it; None where the system cannot."""
    gc.collect()
    give_back()
    try:
        _CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) / 1024 if found else 0.0
