"""One process of the fuzzer: the cases of one target, each from a seed that is written down before it runs.

python fuzz/work.py <target> <seconds> <first seed> [<note> [<cases>]]; 0 seconds: that seed alone; with a number of
cases, so many whatever they take
"""

import importlib
import os
import random
import sys
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / "tests" / part) for part in ("native", "formats"))]
sys.path.append(str(HERE.parent / "tests" / "engine" / "decoder"))


def main(target: str, seconds: float, seed: int, note: str | None = None, cases: int | None = None) -> None:
    warnings.simplefilter("ignore")
    case = importlib.import_module(target).case
    start = time.process_time()  # seconds of computing: as much is done on a machine with other work
    handle = None if note is None else os.open(note, os.O_WRONLY)
    count = 0
    while True:
        if handle is not None:
            os.pwrite(handle, f"{count} {seed + count:<20}".encode(), 0)
        case(random.Random(f"{target} {seed + count}"))
        count += 1
        if count >= cases if cases is not None else time.process_time() - start >= seconds:
            break
    if handle is not None:
        os.pwrite(handle, f"{count} {seed + count - 1:<20}".encode(), 0)
    else:
        print(f"fuzz: {target} with seed {seed} is fine")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:5], *map(int, sys.argv[5:6]))
