"""Our side of the protocol of serve.py: a peer in another process, kept warm and asked for a turn at a time."""

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy

HERE = Path(__file__).parent
_PATIENCE = 20  # last lines of a peer's own messages that an error repeats


class PeerError(RuntimeError):
    """A peer is not installed, or could not do what it was asked."""


def folder() -> Path:
    """Where the peers' environments lie: $RAREFY_PEERS, else .venv-peers beside the benchmarks."""
    return Path(os.environ.get("RAREFY_PEERS") or HERE.parent.parent / ".venv-peers")


def interpreter(peer: str) -> Path:
    """The Python of a peer's environment. Raises PeerError when it is not there."""
    path = folder() / peer / "bin" / "python"
    if not path.exists():
        raise PeerError(f"not installed: {peer} (benchmarks/peers/install.sh {peer})")
    return path


class Peer:
    """A running peer. Raises PeerError from the start when it cannot serve; close it, or use it in a `with`."""

    def __init__(self, peer: str, script: str, *arguments: str) -> None:
        command = [str(interpreter(peer)), str(HERE / script), *arguments]
        self.name = peer
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # closed below
        # no PYTHONPATH: our packages would hide the peer's
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=clean
        )
        try:
            self.facts: dict[str, Any] = self._read()["ready"]
        except BaseException:
            self.close()
            raise

    def turn(self, seconds: float, most: int) -> list[float]:
        """Seconds of each call that fits into `seconds`, at most `most`."""
        return list(self._ask(f"turn {seconds} {most}")["seconds"])

    def output(self) -> "numpy.ndarray[Any, Any]":
        """What one call gives."""
        with tempfile.TemporaryDirectory() as scratch:
            return numpy.load(self._ask(f"output {Path(scratch) / 'result.npy'}")["file"])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(timeout=30)
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                _close(stream)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise PeerError(f"{self.name}: {answer['failed']}")
        return answer

    def _ended(self) -> PeerError:
        self._process.wait(timeout=30)
        self._said.seek(0)
        last = " | ".join(self._said.read().splitlines()[-_PATIENCE:])
        return PeerError(f"{self.name} ended with status {self._process.returncode}: {last or 'it said nothing'}")


def _close(stream: IO[Any]) -> None:
    with contextlib.suppress(OSError):  # the other end is gone
        stream.close()
