"""Memory is measured, not guessed."""

import sys
from pathlib import Path

import pytest

from rarefy.recipes.memory import run_child

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")

_PROGRAM = """
import json
from rarefy.recipes.memory_child import reset_peak, status
before = status("VmRSS")
block = bytearray(300 << 20)
block[::4096] = b"x" * len(block[::4096])
during = status("VmHWM")
del block
reset_peak()
print(json.dumps({"before": before, "during": during, "after": status("VmHWM")}))
"""


def test_the_peak_is_seen_and_can_be_reset():
    ballast = bytearray(b"x") * (400 << 20)  # a child must not inherit its parent's peak
    found = run_child([sys.executable, "-c", _PROGRAM])
    assert len(ballast) == 400 << 20
    assert 300 <= found["during"] - found["before"] < 360
    assert found["after"] < found["during"] - 200


def test_a_failing_child_says_why():
    with pytest.raises(RuntimeError, match="this is why"):
        run_child([sys.executable, "-c", "raise SystemExit('this is why')"])
