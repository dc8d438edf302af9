"""What a compression has done so far, kept in a hidden folder of OUT while it runs.

A stage that is done is a line of the journal, written after the tensors that it names by their fingerprint. Recovery
writes a file of its own every now and then, which names the fingerprint of the pruned model that it began with.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.finetuning.distill_state import DistillState
from rarefy.formats.atomic import replace_file
from rarefy.recipes.compress_file import Kept, write_kept
from rarefy.recipes.stages import Silent, Stages

SCHEMA = "rarefy.compress/1"
JOURNAL = "journal.json"
RECOVERY = "recovery.safetensors"
STAGES = {
    "dense": "measuring the dense model",
    "pruned": "pruning",
    "pruned quality": "pruning",
    "recovered": "recovery",
    "recovered quality": "recovery",
    "file": "saving",
    "times": "timing",
}
"""In their order, with the words for them."""
_SECONDS = 20.0  # between two states of the recovery, at least
_COST = 40.0  # and so many times as long as writing one takes


@dataclass
class State:
    """work: the folder, None to keep nothing; job: what was asked, in words; every: seconds between two states of the
    recovery (None: such that writing them takes no more than a fortieth of the time).

    done: {stage: JSON data}; prints: {stage: fingerprint of its tensors}. Of earlier processes: tensors: {stage: what
    it left}; checkpoint: of the recovery; used: seconds; runs: how many they were, with this one.
    """

    work: Path | None = None
    job: Mapping[str, str] = field(default_factory=dict)
    stages: Stages = field(default_factory=Silent)
    every: float | None = None
    done: dict[str, Any] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Kept] = field(default_factory=dict)
    checkpoint: DistillState | None = None
    used: float = 0.0
    runs: int = 1

    def __post_init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self._cost, self._told = 0.0, False

    @property
    def seconds(self) -> float:
        """Of all processes so far."""
        return self.used + time.perf_counter() - self._began

    def file(self, stage: str) -> Path:
        """Where the tensors of a stage lie."""
        assert self.work is not None
        return self.work / f"{stage}.safetensors"

    def commit(self, stage: str, value: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        """A stage is done: its tensors first, then the line in the journal that makes them count."""
        self.done[stage] = value
        if self.work is None:
            return
        with self.tried():
            if tensors is not None:
                self.prints[stage] = write_kept(self.file(stage), tensors)
            self.save()
            if stage == "recovered":  # what it took to get here is needed no more
                self.file("pruned").unlink(missing_ok=True)
                (self.work / RECOVERY).unlink(missing_ok=True)
        self._last = time.perf_counter()

    def keep(self, state: Callable[[], DistillState]) -> None:
        """Writes the state of the recovery, if it is time to."""
        since = time.perf_counter() - self._last
        pause = max(_SECONDS, _COST * self._cost) if self.every is None else self.every
        if self.work is None or "pruned" not in self.prints or since < pause:
            return
        began, found = time.perf_counter(), state()
        said = {"start": self.prints["pruned"], "recovery": found.seconds, "seconds": self.seconds}
        exact = {f"weight:{name}": value for name, value in found.weights.items()}
        exact |= {"losses": torch.tensor(found.losses, dtype=torch.float64), "generator": found.generator}
        with self.tried():
            write_kept(self.work / RECOVERY, exact, found.moments, said)
        self._last = time.perf_counter()
        self._cost = self._last - began

    def save(self) -> None:
        """Puts the journal on the disk. Raises FileError."""
        assert self.work is not None
        said = {"schema": SCHEMA, "job": self.job, "done": self.done, "prints": self.prints, "runs": self.runs}
        generator = torch.get_rng_state().numpy().tobytes().hex()
        said = json.loads(json.dumps({**said, "seconds": self.seconds, "generator": generator}, default=str))
        text = json.dumps(said | {"sum": checksum(said)}) + "\n"
        replace_file(self.work / JOURNAL, partial(_write, text), durable=False)

    @contextmanager
    def tried(self) -> Iterator[None]:
        """What cannot be kept is said once, and the work goes on: it needs none of it."""
        try:
            yield
        except (FileError, OSError) as error:
            if not self._told:
                self.stages.say(f"{error}; the work goes on, but after a kill it would go on from an earlier stage")
            self._told = True


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def checksum(said: Any) -> str:
    """sha256 of JSON data: finds accidents, is no signature."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
