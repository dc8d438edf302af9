"""The wheels of `dist/` under several Pythons and torches: an environment for each, a smoke run, a part of the tests.

    python tools/matrix.py --python python3.10 --python python3.13 --torch 2.6.0 --torch 2.13.0

Prints a table: what was run, with and without native kernels, or why it could not be. `--torch system` takes the torch
of the interpreter's own packages. `--smoke` leaves the tests out. No compiler is on the PATH of what is run. Fails
(exit status 1) when anything that could be installed fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Both halves of the library in a minute or two: files, packing, every native family, pruning and compiling.
SUBSET = ["tests/core", "tests/formats", "tests/patterns", "tests/native", "tests/engine/test_fuse_block.py"]
TEST_NEEDS = ["pytest", "hypothesis", "beartype", "transformers>=4.50"]


@dataclass(frozen=True)
class Cell:
    """One interpreter with one torch, and what came of it."""

    python: str
    torch: str
    native: str
    fallback: str
    failed: bool = False

    def __str__(self) -> str:
        return f"| {self.python} | {self.torch} | {self.native} | {self.fallback} |"


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The command from the checkout, with nothing on its PATH but its own folder."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CC", "CXX", "RAREFY_NATIVE", "VIRTUAL_ENV")}
    kept |= {"PATH": str(Path(command[0]).parent), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=kept, check=False)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


class Missing(Exception):
    """Something that cannot be installed here."""


def environment(folder: Path, python: str, torch: str, wheels: Path, index: str | None, needs: list[str]) -> Path:
    """An interpreter of its own with the wheel that fits it. Raises Missing with pip's last line."""
    made = run([python, "-m", "venv", str(folder), *(["--system-site-packages"] if torch == "system" else [])])
    if made.returncode != 0:
        raise Missing(last_line(made.stderr or made.stdout))
    own = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [str(own), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"]
    extra = ["--extra-index-url", index] if index else []
    wanted = [[] if torch == "system" else [*extra, f"torch=={torch}", "numpy"]]
    wanted += [["--only-binary=:all:", "--find-links", str(wheels), "rarefy", *needs]]
    for packages in wanted:
        if packages and (done := run([*pip, *packages])).returncode != 0:
            raise Missing(last_line(re.sub(r"(?m)^\[?notice.*$", "", done.stderr)))
    return own


def tested(own: Path, native: bool, smoke: bool) -> tuple[str, bool]:
    """(what came out, whether it is as it must be), with native kernels or as if there were none."""
    switch = {} if native else {"RAREFY_NATIVE": "0"}
    used = run([str(own), "tools/smoke.py", "--native", "yes" if native else "no"], **switch)
    if used.returncode != 0:
        return last_line(used.stderr), False
    if smoke:
        return "smoke", True
    options = ["-p", "no:cacheprovider", "--no-header", "-o", "pythonpath=tests"]
    found = run([str(own), "-m", "pytest", *options, *SUBSET], **switch)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", found.stdout.splitlines()[-1] if found.stdout else "")
    if found.returncode != 0:
        print(found.stdout[-6000:], found.stderr[-2000:], file=sys.stderr)
    return ", ".join(counts) or last_line(found.stderr), found.returncode == 0


def versions(own: Path) -> tuple[str, str, bool]:
    """(of Python, of torch, whether the wheel brought native kernels)"""
    ask = (
        "import importlib.util, sys, torch;"
        "print(sys.version.split()[0], torch.__version__, importlib.util.find_spec('rarefy._native') is not None)"
    )
    python, torch, native = run([str(own), "-W", "ignore", "-c", ask]).stdout.split()
    return python, torch, native == "True"


def cell(python: str, torch: str, wheels: Path, index: str | None, smoke: bool) -> Cell:
    """Everything for one interpreter and one torch; the environment is gone afterwards."""
    exe = shutil.which(python)
    if exe is None:
        return Cell(python, torch, "no such interpreter here", "")
    folder = Path(tempfile.mkdtemp(prefix="rarefy-matrix-"))
    try:
        own = environment(folder, exe, torch, wheels, index, [] if smoke else TEST_NEEDS)
        name, of, native = versions(own)
        with_kernels = tested(own, True, smoke) if native else ("the wheel has none", True)
        without = tested(own, False, smoke)
        return Cell(name, of, with_kernels[0], without[0], not (with_kernels[1] and without[1]))
    except Missing as why:
        return Cell(python, torch, f"not installed: {why}", "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter; again for more (default: this one)")
    parser.add_argument(
        "--torch", action="append", help="a version, or system; again for more (default: the installed)"
    )
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist")
    parser.add_argument("--index", default=os.environ.get("TORCH_INDEX") or None, help="one more index, for torch")
    parser.add_argument("--smoke", action="store_true", help="only prune, save, load, compile and compare")
    given = parser.parse_args()
    if not list(given.wheels.glob("rarefy-*.whl")):
        sys.exit(f"matrix: no wheel of rarefy in {given.wheels}; run `make wheel`")
    pythons = given.python or [sys.executable]
    torches = given.torch or re.findall(r"(?m)^torch==(\S+)", (ROOT / "constraints.txt").read_text("utf-8"))
    print("| Python | torch | native kernels | RAREFY_NATIVE=0 |\n|---|---|---|---|", flush=True)
    failed = False
    for python in pythons:
        for torch in torches:
            done = cell(python, torch, given.wheels.resolve(), given.index, given.smoke)
            print(done, flush=True)
            failed |= done.failed or (given.smoke and not done.fallback)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
