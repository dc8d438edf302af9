"""Work that is killed with kill -9 at a random moment, and what has to be true afterwards.

Children are forked, so that a kill costs milliseconds and a thousand can be had.
"""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

import rarefy
from rarefy.formats.atomic import replace_file
from rarefy.formats.folder import read_contents
from rarefy.recipes.compress import compress
from rarefy.recipes.compress_job import Job as CompressJob
from rarefy.recipes.stages import Silent, Stages
from rarefy.recipes.task import batch_task

STEPS, EVERY = 12, 2  # of the training, and between its checkpoints


@dataclass(frozen=True)
class Job:
    """run: works in a folder to the end, or goes on there; check: raises AssertionError where what lies there after a
    kill is not whole; result: bytes that are the same after any number of kills."""

    run: Callable[[Path], None]
    check: Callable[[Path], None]
    result: Callable[[Path], bytes]


def killed(work: Callable[[], None], after: float) -> bool:
    """Runs `work` in a child that is killed after so many seconds; whether it was still at work then."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(7)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return os.WIFSIGNALED(status)


def until_done(job: Job, folder: Path, rng: random.Random, longest: float, kills: int) -> int:
    """Kills the job so often, each time after up to `longest` seconds, checks, then lets it end; kills that hit."""
    hit = 0
    for _ in range(kills):
        hit += killed(lambda: job.run(folder), rng.uniform(0.0, longest))
        job.check(folder)
    job.run(folder)
    return hit


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 10))


def _batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 200, generator=generator) for _ in range(STEPS)]


# --- saving over an old model ---------------------------------------------------------------------------------


def _save(folder: Path) -> None:
    for seed in range(6):
        model = _network(seed % 2)
        rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
        rarefy.save(model, folder)


def _whole(folder: Path) -> None:
    if not (folder / "model.safetensors").exists():
        return
    model = _network(2)
    rarefy.load(folder, model=model)
    for seed in range(2):
        expected = _network(seed)
        rarefy.prune(expected, "magnitude", sparsity=0.8, measure=False)
        if all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True)):
            return
    raise AssertionError("the model is neither of those that were saved")


# --- the main job over an old model ------------------------------------------------------------------------------


def _compress(folder: Path, stages: Stages = Silent()) -> None:
    """The same two models as `_save`, each with a whole job; what is saved last is the second."""
    for seed in range(2):
        compress_one(seed, folder, stages)


def compress_one(seed: int, folder: Path, stages: Stages = Silent()) -> None:
    task = batch_task(_network(seed).eval(), _batches())
    compress(task, CompressJob("magnitude", 0.8, recover=STEPS, rounds=1), folder, stages, "net", every=0.0)


def _compressed_whole(folder: Path) -> None:
    """The model, if there is one, is one of the two that calm jobs save."""
    if (folder / "model.safetensors").exists():
        assert weights(folder) in {_calm(seed) for seed in range(2)}


@cache
def _calm(seed: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rarefy-calm-") as place:
        compress_one(seed, Path(place))
        return weights(Path(place))


class Killer(Silent):
    """Ends its process by kill -9 where the stage `at` has done `after` units; notes in a file what it was told."""

    def __init__(self, notes: Path, at: str = "", after: int = 0) -> None:
        self.notes, self.at, self.after = notes, at, after

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        self.say(title)
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if title == self.at and done >= self.after:
                os.kill(os.getpid(), signal.SIGKILL)

        advance(0)
        yield advance

    def say(self, text: str) -> None:
        with self.notes.open("a") as file:
            file.write(text + "\n")


def killed_inside(folder: Path, notes: Path, at: str, after: int) -> bool:
    """Compresses in a child that kills itself there; whether it did."""
    child = os.fork()
    if child == 0:
        try:
            compress_one(0, folder, Killer(notes, at, after))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


# --- training with checkpoints ----------------------------------------------------------------------------------


def _train(folder: Path) -> None:
    """RigL with a checkpoint every few steps; goes on from the last one that is there."""
    model, path = _network(0), folder / "checkpoint.pt"
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    said = torch.load(path, weights_only=True) if path.exists() else None
    if said is not None:
        model.load_state_dict(said["model"])
        optimizer.load_state_dict(said["optimizer"])
    trainer = rarefy.sparse_training(
        model, optimizer, "rigl", sparsity=0.8, total_steps=STEPS, state=None if said is None else said["trainer"]
    )
    batches = _batches()
    for step in range(0 if said is None else said["step"], STEPS):
        optimizer.zero_grad()
        model(batches[step]).square().mean().backward()
        trainer.step()
        if (step + 1) % EVERY == 0:
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            parts["trainer"] = trainer.state_dict()
            replace_file(path, lambda aside, parts=parts: torch.save(parts, aside))
    trainer.detach()


def _checkpoint_is_whole(folder: Path) -> None:
    path = folder / "checkpoint.pt"
    if path.exists():
        assert torch.load(path, weights_only=True)["step"] % EVERY == 0


# --- comparing -----------------------------------------------------------------------------------------------------


def _compare(folder: Path) -> None:
    rarefy.compare(
        _network(0).eval(),
        ["magnitude", "wanda", "random"],
        evaluate=_energy,
        sparsity=(0.5, 0.8),
        data=_batches()[:2],
        out=folder,
    )


def _energy(model: nn.Module) -> float:
    with torch.inference_mode():
        return float(model(_batches()[3]).square().mean())


def _cells_are_whole(folder: Path) -> None:
    import json

    for path in (folder / "cells").glob("*.json"):
        assert json.loads(path.read_text())["outcome"]["error"] is None


def _table(folder: Path) -> bytes:
    """The rows without what takes seconds or memory."""
    import json

    rows = json.loads((folder / "compare.json").read_text())
    found = sorted((str(row.get("label", "")), str(row["metrics"])) for row in _outcomes(rows))
    return json.dumps(found).encode()


def _outcomes(node: object) -> list[dict[str, object]]:
    if isinstance(node, dict):
        own = [node] if "metrics" in node else []
        return own + [found for value in node.values() for found in _outcomes(value)]
    return [found for value in node for found in _outcomes(value)] if isinstance(node, list) else []


def weights(folder: Path) -> bytes:
    return str(read_contents(folder).fingerprint).encode()


JOBS = {
    "save": Job(_save, _whole, weights),
    "compress": Job(_compress, _compressed_whole, weights),
    "train": Job(
        _train,
        _checkpoint_is_whole,
        lambda folder: b"".join(
            tensor.numpy().tobytes()
            for tensor in torch.load(folder / "checkpoint.pt", weights_only=True)["model"].values()
        ),
    ),
    "compare": Job(_compare, _cells_are_whole, _table),
}
