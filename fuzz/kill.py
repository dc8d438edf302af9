"""kill -9 many times: saving, compressing, training, comparing, killed at random moments and checked after every kill.

python fuzz/kill.py --kills 100
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import torch

from reliability.kills import JOBS, until_done

AT_A_TIME = 10  # kills before the work may end


def many(name: str, kills: int, rng: random.Random) -> tuple[int, int]:
    """(kills that came while the work was going on, how often it then ended). Raises AssertionError."""
    job = JOBS[name]
    with tempfile.TemporaryDirectory(prefix="rarefy-kill-") as place:
        calm = Path(place) / "calm"
        calm.mkdir()
        job.run(calm)
        began = time.monotonic()
        job.run(Path(tempfile.mkdtemp(dir=place)))
        longest, hit, ends = time.monotonic() - began, 0, 0
        while hit < kills:
            folder = Path(tempfile.mkdtemp(dir=place))
            hit += until_done(job, folder, rng, longest, AT_A_TIME)
            assert job.result(folder) == job.result(calm), f"{name}: another result than without kills"
            ends += 1
    return hit, ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each kind of work")
    parser.add_argument("--only", nargs="*", choices=JOBS, default=list(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(given.seed)
    for name in given.only:
        began = time.monotonic()
        hit, ends = many(name, given.kills, rng)
        took = time.monotonic() - began
        print(f"kill: {name}: {hit} kills in the middle, {ends} results as without a kill, {took:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
