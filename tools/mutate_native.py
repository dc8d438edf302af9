"""Puts one fault at a time into a C++ source of the packers, and names those that no test notices.

    python tools/mutate_native.py --build build/cp311-cp311-linux_x86_64            all of tools/mutation_native.toml
    python tools/mutate_native.py --build ... native/pack/nibbles.cc                one source

The build is one made by CMake with Ninja, up to date. For each fault the source alone is compiled, linked with the
objects of that build into a module of its own, and the tests of the source run against it, until one fails. A fault
that does not compile or that ends the process is noticed. Exit status 1 if one survives that is not said to be
equivalent.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sanitized import REPLACE

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # that the tests of one fault may take; a loop that does not end is noticed


@dataclass(frozen=True)
class Build:
    """A folder of objects; object, command: of the source that is mutated; link: the module of them all."""

    folder: Path
    object: str
    command: list[str]
    link: list[str]
    module: str


def ninja(folder: Path, *what: str) -> list[str]:
    beside = Path(sys.executable).parent
    found = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.check_output(["ninja", "-C", str(folder), "-t", *what], text=True, env=found).splitlines()


def build_of(folder: Path, source: str) -> Build:
    """How one source of a build is compiled, and the module linked."""
    module = next(folder.glob("_native*.so")).name
    commands = [line for line in ninja(folder, "commands", module) if not line.startswith("ninja:")]
    mine = next(line for line in commands if line.rstrip().endswith(f"/{source}"))
    link = shlex.split(commands[-1].removeprefix(": && ").removesuffix(" && :"))
    command = shlex.split(mine)
    return Build(folder, command[command.index("-o") + 1], command, link, module)


def made(build: Build, text: str, at: Path) -> bool:
    """Compiles and links the module with this text for the source, into a folder. False: it does not compile."""
    (at / "source.cc").write_text(text, "utf-8")
    mine = list(build.command)
    mine[mine.index("-o") + 1], mine[mine.index("-MF") + 1] = str(at / "source.o"), str(at / "source.d")
    mine[-1] = str(at / "source.cc")
    if subprocess.run(mine, cwd=build.folder, capture_output=True, check=False).returncode != 0:
        return False
    link = [str(at / "source.o") if part == build.object else part for part in build.link]
    link[link.index("-o") + 1] = str(at / build.module)
    subprocess.run(link, cwd=build.folder, capture_output=True, check=True)
    return True


def passes(build: Build, tests: list[str], at: Path) -> bool:
    """Whether every test passes with the module of that folder."""
    (at / "sitecustomize.py").write_text(REPLACE.format(module=str(at / build.module)), "utf-8")
    paths = [str(at), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def judged(build: Build, source: str, entry: dict) -> Counter:
    """What became of every fault of one source."""
    text, said = (ROOT / source).read_text("utf-8"), Counter[str]()
    for fault in [{"was": "", "becomes": "", "none": True}, *entry["faults"]]:
        if not fault.get("none") and text.count(fault["was"]) != 1:
            sys.exit(f"mutate_native: {source} has {text.count(fault['was'])} times {fault['was']!r}; it must be once")
        with tempfile.TemporaryDirectory(prefix="rarefy-mutate-") as folder:
            broken = text if fault.get("none") else text.replace(fault["was"], fault["becomes"])
            lives = made(build, broken, Path(folder)) and passes(build, entry["tests"], Path(folder))
        if fault.get("none"):
            if not lives:
                sys.exit(f"mutate_native: the tests of {source} fail without any fault")
            continue
        state = "killed" if not lives else "equivalent" if "equivalent" in fault else "survived"
        said[state] += 1
        if state != "killed":
            print(f"{state}: {source}: {fault['was']!r} -> {fault['becomes']!r}", flush=True)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="a folder that CMake and Ninja built the module in")
    parser.add_argument("sources", nargs="*", help="some of those that tools/mutation_native.toml lists")
    given = parser.parse_args()
    known = tomllib.loads((ROOT / "tools" / "mutation_native.toml").read_text("utf-8"))
    table = {
        source: judged(build_of(given.build.resolve(), source), source, known[source])
        for source in given.sources or known
    }
    print("| source | faults | killed | equivalent | survived |\n|---|---:|---:|---:|---:|")
    for source, c in table.items():
        print(f"| `{source}` | {c.total()} | {c['killed']} | {c['equivalent']} | {c['survived']} |")
    return int(any(c["survived"] for c in table.values()))


if __name__ == "__main__":
    sys.exit(main())
