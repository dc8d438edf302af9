"""Runs a command with a native module that is built with sanitizers: AddressSanitizer and UBSan, or another kind.

    python tools/sanitized.py python -m pytest tests/native
    python tools/sanitized.py --kind thread python fuzz/threads.py

The module is built into build-<kind>/ and takes the place of the ordinary one for that command and what it starts; the
ordinary build is not touched. Python itself is not sanitized, so the compiler's runtime is loaded before it. A wrong
read or write, or arithmetic that C++ does not define, ends the process with a report and a status that is not 0.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"address": "address,undefined", "thread": "thread"}
RUNTIMES = {
    "address": ("libasan.so", "libclang_rt.asan-x86_64.so"),
    "thread": ("libtsan.so", "libclang_rt.tsan-x86_64.so"),
}
OPTIONS = {  # leaks: Python never frees its own; what the native module leaks, tools/leakcheck.py finds
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1:detect_stack_use_after_return=0"
    ":quarantine_size_mb=8:thread_local_quarantine_size_kb=256",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "report_bugs=1:halt_on_error=0:history_size=4:exitcode=66",
}
REPLACE = '''"""Finds rarefy._native in the build beside this file, wherever rarefy itself lies."""
import importlib.util, sys

class Sanitized:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, {module!r}) if name == "rarefy._native" else None

sys.meta_path.insert(0, Sanitized)
'''


def build(kind: str, jobs: int) -> Path:
    """The sanitized module; only what has changed is compiled."""
    folder = ROOT / f"build-{kind}"
    beside = Path(sys.executable).parent  # cmake and ninja of the environment
    found = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    nanobind = subprocess.check_output([sys.executable, "-m", "nanobind", "--cmake_dir"], text=True).strip()
    configure = ["cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Sanitize", f"-Dnanobind_DIR={nanobind}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    configure += ["-DRAREFY_SANITIZE=ON", f"-DRAREFY_SANITIZERS={KINDS[kind]}"]
    if shutil.which("ninja", path=found["PATH"]) and not (folder / "CMakeCache.txt").exists():
        configure.append("-GNinja")
    subprocess.run(configure, check=True, env=found, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j", str(jobs)], check=True, env=found, stdout=sys.stderr)
    return max(folder.glob("_native*.so"), key=lambda file: file.stat().st_mtime)


def runtime(kind: str) -> list[str]:
    """The libraries to load first: the sanitizer's, and C++'s own so that the former sees exceptions thrown."""
    compiler = os.environ.get("CXX", "c++").split()

    def path_of(library: str) -> str | None:
        said = subprocess.check_output([*compiler, f"-print-file-name={library}"], text=True).strip()
        return str(Path(said).resolve()) if os.path.isabs(said) and Path(said).exists() else None

    for library in RUNTIMES[kind]:
        if found := path_of(library):
            return [found, *filter(None, [path_of("libstdc++.so.6") or path_of("libstdc++.so")])]
    sys.exit(f"sanitized: {' '.join(compiler)} has none of {', '.join(RUNTIMES[kind])}; install its sanitizer runtime")


def environment(kind: str, module: Path) -> dict[str, str]:
    """What the command runs with."""
    (module.parent / "replace").mkdir(exist_ok=True)
    (module.parent / "replace" / "sitecustomize.py").write_text(REPLACE.format(module=str(module)))
    paths = [str(module.parent / "replace"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    chosen = {name: ":".join(filter(None, [value, os.environ.get(name)])) for name, value in OPTIONS.items()}
    return {
        **os.environ,
        **chosen,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LD_PRELOAD": ":".join(filter(None, [*runtime(kind), os.environ.get("LD_PRELOAD")])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="address")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of the build")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    module = build(given.kind, given.jobs)
    if not given.command:
        print(module)
        return 0
    return subprocess.run(given.command, env=environment(given.kind, module), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
