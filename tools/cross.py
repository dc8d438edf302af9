"""The native module for 64-bit Arm, from a machine that is none: compiled, and its tests run under emulation.

    python tools/cross.py                                   # compiles; g++-aarch64-linux-gnu (a package of Debian)
    python tools/cross.py --root ARM --site ARM_PACKAGES    # and runs tests/native in ARM's Python, by qemu-aarch64

ARM: the files of an arm64 Debian with python3 of the version that runs this script (`debootstrap --foreign
--arch=arm64`, its packages unpacked); ARM_PACKAGES: a folder with the aarch64 wheels of torch and of what the tests
need, unpacked.
What is not there is said and is no failure; `--strict` makes it one.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build-aarch64"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
TESTS = ["tests/native/test_kernels.py", "tests/native/test_process.py", "tests/native/test_doors.py"]


def leave(strict: bool, why: str) -> None:
    print(f"cross: skipped: {why}")
    sys.exit(1 if strict else 0)


def build(compiler: str, jobs: int) -> Path:
    """The module. The Python headers are this interpreter's: both kinds of machine are 64-bit and little-endian."""
    import nanobind

    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}"]
    known = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind.cmake_dir()}"]
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DRAREFY_OPTIMISE=-O1", "-DCMAKE_STRIP=true"]
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD, "-GNinja", *system, *known, *options], check=True)
    subprocess.run(["cmake", "--build", BUILD, "-j", str(jobs)], check=True)
    (built,) = BUILD.glob("_native*.so")
    return built


def package(module: Path) -> Path:
    """The sources of the package with that module as its only one."""
    folder = BUILD / "package"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "rarefy", folder / "rarefy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(module, folder / "rarefy" / "_native.so")
    return folder


def emulated(root: Path, site: Path, sources: Path, arguments: list[str]) -> int:
    """The exit status of that root's Python with these arguments."""
    path = os.pathsep.join(map(str, (sources, site, ROOT / "tests")))
    kept = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["qemu-aarch64", "-L", root, root / "usr" / "bin" / PYTHON, *arguments]
    return subprocess.run(command, cwd=ROOT, env=kept, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="aarch64-linux-gnu-g++")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--root", type=Path, help="an arm64 system")
    parser.add_argument("--site", type=Path, help="its packages")
    parser.add_argument("--strict", action="store_true", help="what is missing is a failure")
    parser.add_argument("tests", nargs="*", default=TESTS, help="what to run there")
    given = parser.parse_args()
    if shutil.which(given.compiler) is None:
        leave(
            given.strict, f"no {given.compiler} on the PATH; install Debian's g++-aarch64-linux-gnu, or give --compiler"
        )
    module = build(given.compiler, given.jobs)
    print(f"cross: {module} is compiled")
    if shutil.which("qemu-aarch64") is None or given.root is None or given.site is None:
        leave(given.strict, "nothing is run: that takes qemu-aarch64 (Debian's qemu-user), --root and --site")
    sources = package(module)
    options = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:jaxtyping",  # its checks of every call take longer than the kernels there
        "-o",
        "addopts=--strict-markers --import-mode=importlib",
        "-o",
        "pythonpath=tests",
        *given.tests,
    ]
    sys.exit(
        emulated(given.root, given.site, sources, ["tools/smoke.py", "--native", "yes"])
        or emulated(given.root, given.site, sources, options)
    )


if __name__ == "__main__":
    main()
