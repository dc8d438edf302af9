"""The last measured coverage as a Markdown table, a row a package of the floors 0 to 4.

python tools/coverage_table.py        after `make coverage`, or with COVERAGE_FILE naming the data

Exit status 1 where a package has less than 95 % of its lines and branches.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

FLOORS = {
    0: ["core"],
    1: ["formats"],
    2: ["ops"],
    3: ["patterns", "scores", "allocations", "schedules", "selectors"],
    4: ["solvers", "calibration"],
}
LEAST = 0.95  # of a package
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def by_package(files: dict) -> dict[str, dict[str, int]]:
    """{package: counts} of the files of a coverage report."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for name, said in files.items():
        package = Path(name).as_posix().partition("rarefy/")[2].partition("/")[0]
        for count in COUNTS:
            found[package][count] += said["summary"][count]
    return found


def share(counts: dict[str, int]) -> float:
    lines, ran, branches, taken = (counts[count] for count in COUNTS)
    return (ran + taken) / max(1, lines + branches)


def row(floor: object, package: str, counts: dict[str, int]) -> str:
    lines, ran, branches, taken = (counts[count] for count in COUNTS)
    return f"| {floor} | {package} | {ran} of {lines} | {taken} of {branches} | {100 * share(counts):.1f} % |"


def main() -> int:
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "coverage", "json", "-q", "--fail-under=0", "-o", report.name]
        if status := subprocess.run(command, check=False).returncode:
            return status
        packages = by_package(json.loads(Path(report.name).read_text("utf-8"))["files"])
    rows = [row(floor, name, packages[name]) for floor, names in FLOORS.items() for name in names if name in packages]
    total = {count: sum(counts[count] for counts in packages.values()) for count in COUNTS}
    print("| floor | package | lines | branches | together |\n|---|---|---:|---:|---:|")
    print("\n".join([*rows, row("", "all", total)]))
    low = [name for name, counts in packages.items() if share(counts) < LEAST]
    if low:
        print(f"coverage: less than {LEAST:.0%} of {', '.join(low)}", file=sys.stderr)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
