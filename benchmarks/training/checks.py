"""What the catalog asks of single methods and needs whole trainings: each method beside its rival, seed by seed.

Usage: python benchmarks/training/checks.py DATA [--seeds 5] [--only NAME ...] >> checks.md
DATA: a folder with mnist/train-images-idx3-ubyte.gz and its kin, and tinyshakespeare/input.txt.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Pairs = Callable[[Path, int], list[tuple[str, float, float]]]


@dataclass(frozen=True)
class Check:
    """run(data, seed) gives rows of (what, the method's value, its rival's); more: whether larger is better."""

    run: Pairs
    unit: str
    more: bool = True


def lines(rows: list[list[tuple[str, float, float]]], check: Check) -> Iterator[str]:
    """One line for each row of the check, over its seeds."""
    for same in zip(*rows, strict=True):
        label = same[0][0]
        ours, theirs = [row[1] for row in same], [row[2] for row in same]
        ahead = sum((a > b) if check.more else (a < b) for a, b in zip(ours, theirs, strict=True))
        cells = " | ".join(f"{statistics.mean(v):.4g} ({min(v):.4g} to {max(v):.4g})" for v in (ours, theirs))
        yield f"| {label} | {check.unit} | {cells} | {ahead} of {len(ours)} |"


def main() -> None:
    from checks_images import CHECKS as images
    from checks_others import CHECKS as others
    from checks_studies import CHECKS as studies
    from checks_text import CHECKS as text

    known = images | studies | others | text
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(known), choices=list(known))
    given = parser.parse_args()
    print("| check | unit | the method | its rival | seeds in which it is ahead |\n|---|---|---|---|---|")
    for name in given.only:
        check = known[name]
        for line in lines([check.run(given.data, seed) for seed in range(given.seeds)], check):
            print(line, flush=True)


if __name__ == "__main__":
    main()
