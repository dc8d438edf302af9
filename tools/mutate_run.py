"""Runs tests against mutants: put into the running process after a fork, or with a fresh import of the package."""

import gc
import importlib
import importlib.machinery
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutants import Mutant
from mutate_place import NotInPlace, Place, module_of, watched

CPU_SECONDS = 10  # what the tests of one mutant may take beyond four times what they take without it
_LOUD = os.dup(2)  # where progress is told, from silent processes too
MOST_MEMORY = 16 << 30  # bytes of address space, of which torch alone maps some


@dataclass(frozen=True)
class Tests:
    """paths: from the root; leave_out: names of test files; folder: an empty one for what they write."""

    root: Path
    paths: Sequence[str]
    leave_out: Sequence[str]
    folder: Path

    @property
    def arguments(self) -> list[str]:
        quiet = ["-q", "-x", "-s", "-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none"]
        left = [f"--ignore-glob=*/{name}" for name in self.leave_out]
        where = ["--rootdir", str(self.root), "--basetemp", str(self.folder / "tests")]
        return [*quiet, *where, *left, *(str(self.root / path) for path in self.paths)]


def warm() -> None:
    """Imports what does not depend on the package, so that forks find it there."""
    for name in ("torch", "torch.nn.utils.prune", "numpy", "safetensors.torch", "beartype", "jaxtyping"):
        importlib.import_module(name)
    import hypothesis

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # that it fails is enough; the smallest is no use
    hypothesis.settings.register_profile("mutate", phases=phases, database=None, derandomize=True)
    hypothesis.settings.load_profile("mutate")


def fresh(file: str, source: bytes, tests: Tests) -> bool:
    """Whether a test fails when the package is imported with this source for the file."""

    def child() -> int:
        _serve(tests.root / file, source)
        return int(pytest.main(tests.arguments))

    return _forked(child, 600) != 0


def in_place(mutants: Mapping[str, Sequence[Mutant]], tests: Tests) -> dict[str, list[int]]:
    """{file: numbers of its mutants that a test notices when they are put into the running process}"""
    report = tests.folder / "in_place.json"
    report.unlink(missing_ok=True)
    _forked(lambda: int(pytest.main(tests.arguments, plugins=[_Loop(mutants, tests.root, report)])), 1 << 20)
    if not report.exists():
        sys.exit(f"mutate: the tests fail without any fault, or cannot be collected: {' '.join(tests.paths)}")
    return json.loads(report.read_text("utf-8"))


class _Loop:
    """A plugin that runs, for every mutant, those of the collected tests that enter its function."""

    def __init__(self, mutants: Mapping[str, Sequence[Mutant]], root: Path, report: Path) -> None:
        self.mutants, self.root, self.report = mutants, root, report

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        seconds, entered = self._baseline(session)
        self.places = {file: Place(module) for file in self.mutants if (module := module_of(self.root / file))}
        gc.freeze()  # so that a child that collects garbage does not touch, and copy, all that is here
        killed = {file: self._judge(session, file, seconds, entered.get(file, {})) for file in self.mutants}
        self.report.write_text(json.dumps(killed), "utf-8")
        return True

    def _judge(self, session: pytest.Session, file: str, seconds: list[float], entered: dict) -> list[int]:
        place, source = self.places.get(file), (self.root / file).read_bytes()
        everything = sorted({number for numbers in entered.values() for number in numbers})
        killed = []
        for number, mutant in enumerate(self.mutants[file] if place else []):
            items = sorted(entered.get(place.entered(mutant.where), everything), key=seconds.__getitem__)

            def child(mutant: Mutant = mutant, items: list[int] = items) -> int:
                try:
                    place.put(mutant.applied(source), mutant.where)
                except NotInPlace:
                    return 0
                return _run(session, items)

            if _forked(child, CPU_SECONDS + 4 * int(sum(seconds[item] for item in items))) != 0:
                killed.append(number)
            else:
                _say(f"open: {file}:{mutant.line} {mutant.where}: {mutant.was!r} -> {mutant.becomes!r}")
        _say(f"{file}: {len(killed)} of {len(self.mutants[file])} noticed in place")
        return killed

    def _baseline(self, session: pytest.Session) -> tuple[list[float], dict[str, dict[str, list[int]]]]:
        """(seconds of each test, {file: {function: tests that enter it}})"""
        told, files = self.report.with_suffix(".baseline"), {str(self.root / file): file for file in self.mutants}

        def child() -> int:
            seconds, entered = [], {file: {} for file in self.mutants}
            for number in range(len(session.items)):
                begin, names = time.process_time(), set[tuple[str, str]]()
                with watched(files.keys(), names):
                    failed = _run(session, [number])
                seconds.append(time.process_time() - begin)
                for path, name in names:
                    entered[files[path]].setdefault(name, []).append(number)
                if failed:
                    return 1
            told.write_text(json.dumps([seconds, entered]), "utf-8")
            return 0

        if _forked(child, 3600) != 0:
            raise pytest.UsageError("a test fails without any fault")
        seconds, entered = json.loads(told.read_text("utf-8"))
        return seconds, entered


def _say(text: str) -> None:
    os.write(_LOUD, f"{time.strftime('%H:%M:%S')} {text}\n".encode())


def _run(session: pytest.Session, numbers: Sequence[int]) -> int:
    """1 if one of the tests fails, else 0."""
    for number in numbers:
        item = session.items[number]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        if session.testsfailed:
            return 1
    return 0


def _serve(path: Path, source: bytes) -> None:
    """Every later import of the file gets this source, and no compiled form of it is read or kept."""
    loader = importlib.machinery.SourceFileLoader
    read, keep = loader.get_data, loader.set_data

    def compiled(at: str) -> bool:
        return Path(at).parent == path.parent / "__pycache__" and Path(at).name.startswith(f"{path.stem}.")

    def get_data(self, at):
        if compiled(at):
            raise OSError
        return source if at == str(path) else read(self, at)

    loader.get_data = get_data
    loader.set_data = lambda self, at, data, **rest: None if compiled(at) else keep(self, at, data, **rest)


def _forked(call: Callable[[], int], cpu_seconds: int) -> int:
    """The status of a call in a silent process of its own, which may use so much processor time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
            status = call()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
