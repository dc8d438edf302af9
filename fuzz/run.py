"""Fuzzes the native module and whatever reads files, for some seconds, and says how each failure is had again.

    python tools/sanitized.py python fuzz/run.py --seconds 60
    python tools/sanitized.py python fuzz/run.py --cases 1000000                 # hostile files, so many
    python tools/sanitized.py python fuzz/run.py --target packed --seed 123456   # one case again

Each target (a file here with a function `case(rng)`) takes turns in processes of its own: a case that ends its process,
by a sanitizer or a page that cannot be touched, or that takes too long, is a failure like any other. Exit status 1.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from counting import built, environment

HERE = Path(__file__).resolve().parent
TARGETS = {  # share of the time
    "packed": 4, "convs": 2, "blocks": 2, "rows": 1, "trained": 1, "programs": 2, "decoders": 2,
    "files": 2, "layouts": 2, "mapped": 2, "hostile": 2, "beside": 2, "folders": 2, "data": 2,
    "choices": 1, "arguments": 3,
}  # fmt: skip
FILES = {
    "hostile": 40,
    "beside": 6,
    "folders": 1,
    "data": 2,
    "files": 1,
    "layouts": 1,
    "mapped": 2,
}  # share of the cases, where they are counted
LONGEST = 90.0  # seconds of computing that a case may take before its process is ended; the files' own limit is 1
AT_A_TIME = 60.0  # seconds of a process: importing costs some, a failure loses the rest
CASES_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Turn:
    """What one process did. failed: the seed of its last case, if that one failed."""

    target: str
    cases: int
    failed: int | None
    said: str


def computed(pid: int) -> float:
    """Seconds of a CPU that a process has had: the machine's other work does not count."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def turn(target: str, seconds: float, seed: int, cases: int | None, variables: Mapping[str, str]) -> Turn:
    """One process, watched from outside. cases: how many, whatever they take, instead of seconds."""
    with tempfile.TemporaryDirectory() as folder:
        note, log = Path(folder) / "note", Path(folder) / "log"
        command = [sys.executable, HERE / "work.py", target, str(seconds), str(seed), note]
        command += [] if cases is None else [str(cases)]
        note.write_text(f"0 {seed}")
        with log.open("wb") as out:
            child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=variables)
            hung, noted, at_note = False, "", 0.0
            while child.poll() is None:
                time.sleep(0.5)
                spent = computed(child.pid)
                if noted != (now := note.read_text()):
                    noted, at_note = now, spent
                if spent - at_note > LONGEST or time.time() - note.stat().st_mtime > 10 * LONGEST:
                    hung = True
                    child.kill()
                    child.wait()
        done, last = map(int, note.read_text().split())
        said = log.read_text(errors="replace")
    if hung:
        said += f"\nno case may take {LONGEST:.0f} s"
    failed = last if child.returncode or hung else None
    print(f"fuzz: {target}: {done} cases from seed {seed}, {'fine' if failed is None else 'FAILED'}", flush=True)
    return Turn(target, done, failed, said[-6000:])


def plan(seconds: float, only: str | None, jobs: int) -> list[tuple[str, float]]:
    """(target, seconds) in turn; `seconds` is the whole, of all processes side by side."""
    shares = {only: 1} if only else TARGETS
    turns: list[tuple[str, float]] = []
    for target, share in shares.items():
        left = seconds * jobs * share / sum(shares.values())
        count = max(1, round(left / AT_A_TIME))
        turns += [(target, left / count)] * count
    random.Random(0).shuffle(turns)
    return turns


def counted(cases: int, only: str | None) -> list[tuple[str, int]]:
    """(target, cases) in turn, of the targets that read files."""
    shares = {only: 1} if only else FILES
    turns: list[tuple[str, int]] = []
    for target, share in shares.items():
        left = -(-cases * share // sum(shares.values()))
        count = -(-left // CASES_AT_A_TIME)
        turns += [(target, -(-left // count))] * count
    random.Random(0).shuffle(turns)
    return turns


def run(given: argparse.Namespace, start: int, variables: Mapping[str, str]) -> list[Turn]:
    """All processes, `given.jobs` side by side."""
    turns: list[tuple[str, float, int | None]]
    if given.cases is None:
        turns = [(target, seconds, None) for target, seconds in plan(given.seconds, given.target, given.jobs)]
    else:
        turns = [(target, 0.0, cases) for target, cases in counted(given.cases, given.target)]

    def one(i: int) -> Turn:
        target, seconds, cases = turns[i]
        return turn(target, seconds, start + (i << 20), cases, variables)

    with ThreadPoolExecutor(given.jobs) as pool:
        return list(pool.map(one, range(len(turns))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, help="of hostile files, instead of seconds of everything")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--start", type=int, help="the first seed, for the same cases again [default: drawn]")
    parser.add_argument("--seed", type=int, help="runs the one case of this seed; needs --target")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rarefy-fuzz-counted-") as folder:
        variables = environment(built(Path(folder)))
        if given.seed is None:
            return _all(given, variables)
        command = [sys.executable, HERE / "work.py", given.target or "packed", "0", str(given.seed)]
        return subprocess.run(command, env=variables).returncode


def _all(given: argparse.Namespace, variables: Mapping[str, str]) -> int:
    start = random.SystemRandom().getrandbits(40) if given.start is None else given.start
    asked = f"{given.seconds:.0f} s" if given.cases is None else f"{given.cases} cases"
    print(f"fuzz: {asked}, seeds from {start}", flush=True)
    began = time.monotonic()
    done = run(given, start, variables)
    for target in TARGETS:
        cases = sum(t.cases for t in done if t.target == target)
        print(f"fuzz: {target:10} {cases:7} cases")
    failures = [t for t in done if t.failed is not None]
    for failure in failures:
        print(f"\n{failure.said}\nfuzz: FAILED, again by: --target {failure.target} --seed {failure.failed}")
    took = time.monotonic() - began
    print(f"fuzz: {sum(t.cases for t in done)} cases, {len(failures)} failed, {took:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
