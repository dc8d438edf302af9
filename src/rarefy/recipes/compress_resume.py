"""Finding what a killed compression left, and going on with it.

All of it can be made again: what is damaged, or of another job, is left out with a word, and done again.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.finetuning.distill_state import DistillState
from rarefy.formats.folder import read_json
from rarefy.recipes.alone import alone
from rarefy.recipes.compress_file import Kept, read_kept
from rarefy.recipes.compress_state import JOURNAL, RECOVERY, SCHEMA, STAGES, State, checksum
from rarefy.recipes.folder_job import changed
from rarefy.recipes.stages import Stages

WORK = ".rarefy-compress"
_MODELS = ("recovered", "pruned")  # stages that end with a model, the later one first
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError)


@contextmanager
def opened(folder: Path, job: Mapping[str, str], stages: Stages, every: float | None) -> Iterator[State]:
    """The state of a job in `folder`, new or as an earlier run of the same job left it; removed where the job ends.

    Torch's generator is set to where it was, and afterwards to what the caller had. Raises FileError where another
    process works in the folder.
    """
    work = folder / WORK
    try:
        work.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"{work}: cannot be made ({error}); choose another folder") from error
    with alone(work / "lock", folder, "compressing into"), torch.random.fork_rng(devices=[]):
        yield _begun(State(work, job, stages, every))
        shutil.rmtree(work, ignore_errors=True)


def model_of(state: State) -> dict[str, Tensor] | None:
    """The tensors of the last model that an earlier process finished, None if there is none."""
    return next((state.tensors[stage].exact() for stage in _MODELS if stage in state.tensors), None)


def _begun(state: State) -> State:
    """The state with what is there, or with nothing; it says which."""
    work = state.work
    assert work is not None
    for left in work.glob(".*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    if (work / JOURNAL).exists():
        try:
            _read(state, work / JOURNAL)
        except FileError as error:
            state.stages.say(f"{error}; beginning anew")
    if not state.done:
        for name in (JOURNAL, RECOVERY, *(state.file(stage).name for stage in STAGES)):
            (work / name).unlink(missing_ok=True)
    with state.tried():
        state.save()
    return state


def _read(state: State, path: Path) -> None:
    try:
        said = read_json(path)
    except FileError:
        raise FileError(f"{path}: is damaged") from None
    if said.pop("sum", None) != checksum(said):
        raise FileError(f"{path}: is damaged")
    if said.get("schema") != SCHEMA:
        raise FileError(f"{path}: was not written by this version of rarefy")
    if other := changed(said.get("job"), state.job):
        raise FileError(f"{path.parent}: is of another job: {other}")
    try:
        done, prints, used, runs = dict(said["done"]), dict(said["prints"]), float(said["seconds"]), int(said["runs"])
        generator = _generator(torch.frombuffer(bytearray.fromhex(said["generator"]), dtype=torch.uint8))
    except _BROKEN:
        raise FileError(f"{path}: is damaged") from None
    state.done, state.prints, state.used, state.runs = done, prints, used, runs + 1
    _read_tensors(state)
    if last := [words for stage, words in STAGES.items() if stage in state.done]:
        torch.set_rng_state(generator)
        more = "" if state.checkpoint is None else f", from step {state.checkpoint.steps} of recovery"
        state.stages.say(f"going on after {last[-1]}{more}")


def _generator(given: Tensor) -> Tensor:
    """The same, once a generator has taken it. Raises RuntimeError or TypeError."""
    return torch.Generator().set_state(given).get_state()


def _read_tensors(state: State) -> None:
    """What the stages left; one whose tensors are not what they were is done again, and all that came of it."""
    for stage in _MODELS:
        if stage in state.done:
            if _readable(state, stage):
                break
            for later in list(STAGES)[list(STAGES).index(stage) :]:
                state.done.pop(later, None)
    if "dense" in state.done and not _readable(state, "dense"):
        state.done.pop("dense")
    if "pruned" in state.tensors:
        state.checkpoint = _checkpoint(state)


def _readable(state: State, stage: str) -> bool:
    path = state.file(stage)
    try:
        kept = _kept(path)
        if kept.fingerprint != state.prints.get(stage):
            raise FileError(f"{path}: is not what was written")
    except FileError as error:
        state.stages.say(f"{error}; {STAGES[stage]} is done again")
        return False
    state.tensors[stage] = kept
    return True


def _kept(path: Path) -> Kept:
    try:
        return read_kept(path)
    except FileError:
        raise FileError(f"{path}: is damaged or lost") from None


def _checkpoint(state: State) -> DistillState | None:
    """Where recovery was, if it had begun and its file is whole and of this pruned model."""
    assert state.work is not None
    path = state.work / RECOVERY
    if not path.exists():
        return None
    try:
        kept = _kept(path)
        said: Any = kept.said
        if said["start"] != state.prints["pruned"]:
            raise FileError(f"{path}: is of another model")
        exact = kept.exact()
        weights = {name.removeprefix("weight:"): tensor for name, tensor in exact.items() if ":" in name}
        found = DistillState(
            tuple(exact["losses"].tolist()),
            float(said["recovery"]),
            weights,
            kept.equal(),
            _generator(exact["generator"].clone()),
        )
        state.used = max(state.used, float(said["seconds"]))
        return found
    except _BROKEN as error:
        why = error if isinstance(error, FileError) else f"{path}: is damaged"
        state.stages.say(f"{why}; recovery begins anew")
        return None
