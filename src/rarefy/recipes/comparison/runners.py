"""How the cells are worked off: one after the other, in processes, or on a Ray cluster. All give what they finish."""

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from rarefy.core.errors import DataError, ModelError
from rarefy.recipes.comparison.cell import Case, Cell, Outcome, run_cell
from rarefy.recipes.environment import usable_cores

Done = tuple[Cell, Outcome]
Runner = Callable[[Case, Sequence[Cell]], Iterator[Done]]


def serial(case: Case, cells: Sequence[Cell]) -> Iterator[Done]:
    """In this process, in order."""
    for cell in cells:
        yield cell, run_cell(case, cell)


def packed(case: Case) -> bytes:
    """The case as bytes for another process, or an error that says what cannot travel."""
    try:
        return pickle.dumps(case)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            f"compare: the model, the data, the loss or evaluate cannot go to another process ({error}); define them "
            "at the top of a module, not as lambda or inner function, or leave workers= and ray= out"
        ) from None


@dataclass(frozen=True)
class Processes:
    """So many processes of this machine; each keeps the model and takes one cell after the other.

    A process that dies (killed for memory, say) costs its cell, which becomes an error to be tried again.
    """

    count: int

    def __call__(self, case: Case, cells: Sequence[Cell]) -> Iterator[Done]:
        crew = _Crew(packed(case), min(self.count, len(cells)), max(1, usable_cores() // self.count))
        waiting = list(reversed(cells))
        try:
            crew.start(waiting)
            while crew.busy:
                for connection in wait(list(crew.busy)):
                    assert isinstance(connection, Connection)
                    yield crew.finish(connection)
                    crew.give(connection, waiting)
        finally:
            crew.stop()


class _Crew:
    """The processes of a run: who works on what, at the other end of which pipe."""

    def __init__(self, payload: bytes, count: int, threads: int) -> None:
        self.payload, self.count, self.threads = payload, count, threads
        self.busy: dict[Connection, Cell] = {}
        self.processes: dict[Connection, Any] = {}

    def start(self, waiting: list[Cell]) -> None:
        for _ in range(self.count):
            self.give(self._hire(), waiting)

    def _hire(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would copy OpenMP's locked state
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, self.threads), daemon=True)
        process.start()
        there.close()
        self.processes[here] = process
        with suppress(OSError):  # a process that died at once is noticed when its cell is waited for
            here.send_bytes(self.payload)
        return here

    def give(self, connection: Connection, waiting: list[Cell]) -> None:
        """The next cell to this process, or to a new one where this has died."""
        if not waiting:
            return
        if connection not in self.processes:
            connection = self._hire()
        self.busy[connection] = waiting.pop()
        with suppress(OSError):
            connection.send(self.busy[connection])

    def finish(self, connection: Connection) -> Done:
        """What a process has to say: its outcome, or nothing any more."""
        cell = self.busy.pop(connection)
        try:
            return cell, connection.recv()
        except (EOFError, OSError):
            process = self.processes.pop(connection)
            process.join(10)
            why = (
                f"the process died (exit code {process.exitcode}); a negative code is a signal, -9 often out of memory"
            )
            return cell, Outcome(error=why, retry=True)

    def stop(self) -> None:
        for connection, process in self.processes.items():
            connection.close()
            process.terminate()
            process.join(10)


def work(connection: Connection, threads: int) -> None:
    """What a process does: takes the case, then cells until the pipe closes."""
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError, KeyboardInterrupt):
        case: Case = pickle.loads(connection.recv_bytes())
        while True:
            connection.send(run_cell(case, connection.recv()))


class OnRay:
    """One Ray task a cell, on whatever cluster Ray finds or starts. ray: the module, imported here if not given."""

    def __init__(self, ray: Any = None, address: str | None = None) -> None:
        self.ray, self.address = ray if ray is not None else _ray(), address

    def __call__(self, case: Case, cells: Sequence[Cell]) -> Iterator[Done]:
        if not self.ray.is_initialized():
            self.ray.init(address=self.address, log_to_driver=False)
        payload = self.ray.put(packed(case))
        task = self.ray.remote(run_packed)
        pending = {task.remote(payload, cell): cell for cell in cells}
        while pending:
            ready, _ = self.ray.wait(list(pending), num_returns=1)
            for reference in ready:
                yield pending[reference], self._result(reference)
                del pending[reference]

    def _result(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self.ray.get(reference)
        except Exception as error:
            first = str(error).strip().splitlines()[-1:]
            return Outcome(error=f"Ray: {type(error).__name__}: {' '.join(first)}", retry=True)
        return outcome


def run_packed(payload: bytes, cell: Cell) -> Outcome:
    """A cell of a packed case, wherever this runs."""
    case: Case = pickle.loads(payload)
    return run_cell(case, cell)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ModelError("ray: is not installed; pip install ray, or use workers= on this machine") from None
    return ray
