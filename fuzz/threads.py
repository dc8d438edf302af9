"""The stress test for as long as asked, for a build that finds races:

    python tools/sanitized.py --kind thread python fuzz/threads.py --seconds 300

Torch and OpenMP are not built for it, so only what the native module itself does is watched.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests"), str(Path(__file__).resolve().parents[1] / "src")]
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "engine" / "decoder"))

from engine.test_stress import decoder, hammer, network, program
from rarefy.engine import fuse_attention


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=("network", "program", "decoder"))
    given = parser.parse_args()
    fuse_attention._time = lambda *sizes: True
    makes = {"network": network, "program": program, "decoder": decoder}
    kinds = {name: make() for name, make in makes.items() if given.only in (None, name)}
    end, rounds, wrong = time.monotonic() + given.seconds, 0, []
    while time.monotonic() < end and not wrong:
        for calls in kinds.values():
            wrong += hammer(calls, 5)
        rounds += 1
    print(f"threads: {rounds} rounds", *wrong[:5], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
