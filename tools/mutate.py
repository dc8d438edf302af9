"""Mutation testing: puts one small fault at a time into the sources, and names those that no test notices.

    python tools/mutate.py                             the guarded files of tools/mutation.toml
    python tools/mutate.py src/rarefy/formats/*.py     others

A fault in a function is put into the running function after a fork, and the tests that enter it run, the fastest first,
until one fails. One in a module's or class's body, and each that was not noticed so, runs with a fresh import of the
package and all tests of its file. Exits with 1 if one survives that tools/mutation.toml does not call equivalent.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import mutate_run as run
from mutants import Mutant, mutants

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    file: str
    mutant: Mutant
    state: str  # killed | survived | equivalent


def belongs_to(file: str, known: dict) -> int:
    """Which of the [[belongs]] a file matches first."""
    for number, belongs in enumerate(known["belongs"]):
        if any(fnmatch(file, pattern) for pattern in belongs["files"]):
            return number
    sys.exit(f"mutate: {file} has no tests in tools/mutation.toml; add a [[belongs]] that matches it")


def equivalent(file: str, known: dict) -> set[tuple[str, str, str, int]]:
    """Keys of the mutants of a file that were shown to do what it does."""
    listed = [entry for entry in known.get("equivalent", []) if entry["file"] == file]
    return {(e["where"], e["was"], e["becomes"], e.get("nth", 0)) for e in listed}


def guesses(file: str, known: dict) -> set[str]:
    """Functions of a file whose results change how long something takes and never what it gives."""
    return {entry["where"] for entry in known.get("guess", []) if entry["file"] == file}


def believed(report: Path | None) -> set[tuple[str, str, str, str, int]]:
    """(file, key) of the mutants that an earlier run killed."""
    listed = json.loads(report.read_text("utf-8")) if report else []
    return {(e["file"], e["where"], e["was"], e["becomes"], e["nth"]) for e in listed if e["state"] == "killed"}


def judge(files: list[str], known: dict, tests: run.Tests, dead: set, confirm: bool) -> list[Outcome]:
    """What became of every mutant of some files that the same tests belong to."""
    sources = {file: (ROOT / file).read_bytes() for file in files}
    found = {file: mutants(source) for file, source in sources.items()}
    said = {file: equivalent(file, known) for file in files}
    for file in files:
        if unknown := said[file] - {mutant.key for mutant in found[file]}:
            sys.exit(f"mutate: {file} has no such mutants, take them out of tools/mutation.toml: {sorted(unknown)}")
        said[file] |= {mutant.key for mutant in found[file] if mutant.where in guesses(file, known)}
    real = {file: [m for m in found[file] if m.key not in said[file] and (file, *m.key) not in dead] for file in files}
    killed = run.in_place(real, tests)
    outcomes = []
    for file in files:
        outcomes += [Outcome(file, mutant, "killed") for mutant in found[file] if (file, *mutant.key) in dead]
        outcomes += [Outcome(file, mutant, "equivalent") for mutant in found[file] if mutant.key in said[file]]
        for number, mutant in enumerate(real[file]):
            noticed = number in killed[file]
            noticed = noticed or (confirm and run.fresh(file, mutant.applied(sources[file]), tests))
            outcomes.append(Outcome(file, mutant, "killed" if noticed else "survived"))
    return outcomes


def chosen(given: list[str], known: dict) -> list[str]:
    """The files to mutate, from the root."""
    wanted = given or known["guarded"]["files"]
    files = {p.relative_to(ROOT) for g in wanted for p in ROOT.glob(g.removeprefix("./"))}
    inside = {p.relative_to(ROOT) for folder in files for p in (ROOT / folder).rglob("*.py")}
    return sorted(str(p) for p in files | inside if p.suffix == ".py")


def table(outcomes: list[Outcome]) -> str:
    """A Markdown table, a row a file."""
    counts: dict[str, Counter] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.file, Counter())[outcome.state] += 1
    counts["all"] = sum(counts.values(), Counter())
    rows = [
        f"| `{file.removeprefix('src/rarefy/')}` | {c.total()} | {c['killed']} | {c['equivalent']} | {c['survived']} |"
        for file, c in counts.items()
    ]
    return "\n".join(["| file | mutants | killed | equivalent | survived |", "|---|---:|---:|---:|---:|", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files, folders or patterns from the root")
    parser.add_argument("--report", type=Path, help="also writes every outcome there, as JSON")
    parser.add_argument("--again", type=Path, help="a report: only what survived there is tried, the rest is believed")
    parser.add_argument("--quick", action="store_true", help="believes what survives in place, without a fresh import")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    known = tomllib.loads((ROOT / "tools" / "mutation.toml").read_text("utf-8"))
    run.warm()
    outcomes: list[Outcome] = []
    files = chosen(given.files, known)
    for number, belongs in enumerate(known["belongs"]):
        mine = [file for file in files if belongs_to(file, known) == number]
        if mine:
            with tempfile.TemporaryDirectory(prefix="rarefy-mutate-") as folder:
                tests = run.Tests(ROOT, belongs["tests"], belongs.get("leave_out", []), Path(folder))
                outcomes += judge(mine, known, tests, believed(given.again), not given.quick)
    for o in (o for o in outcomes if o.state == "survived"):
        m = o.mutant
        print(f"survived: {o.file}:{m.line} {m.where} [{m.nth}]: {m.was!r} -> {m.becomes!r}")
    print(table(outcomes))
    if given.report:
        said = [{"file": o.file, "state": o.state, **vars(o.mutant)} for o in outcomes]
        given.report.write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    return int(any(outcome.state == "survived" for outcome in outcomes))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
