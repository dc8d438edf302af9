"""The main job on any model: prune, recover, save, reload, time, and say what came of it."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.density import density_of
from rarefy.core.errors import FileError, SparsityError
from rarefy.core.registry import lookup
from rarefy.core.site import find_sites
from rarefy.engine import Compiled, CompiledDecoder, benchmark
from rarefy.engine import compile as compile_model
from rarefy.engine.rivals import find
from rarefy.patterns.parse import parse_pattern
from rarefy.pruning import PruneReport
from rarefy.pruning.resolve import resolve_method
from rarefy.recipes.environment import environment
from rarefy.recipes.measure import prune
from rarefy.recipes.quality import Quality, compare
from rarefy.recipes.recover import recover
from rarefy.recipes.report_file import writable_folder
from rarefy.recipes.stages import Stages
from rarefy.recipes.store import load, save
from rarefy.recipes.task import Task

_SAME = 1e-6  # largest difference between the outputs of the saved and of the reloaded model


@dataclass(frozen=True)
class Job:
    """What to do with a model. recover: distillation steps, at most `recover_seconds` of them; options: of the method;
    against: rivals to time beside it; target_speedup: at the first example's shape, instead of a sparsity."""

    method: str = "sparsegpt"
    sparsity: float | None = 0.7
    pattern: str | None = None
    allocation: str | None = None
    ignore: tuple[str, ...] = ()
    recover: int = 0
    recover_seconds: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    against: tuple[str, ...] = ("torch",)
    rounds: int = 7
    target_speedup: float | None = None

    def check(self) -> None:
        """Names and ranges, before anything slow happens."""
        resolve_method(self.method, dict(self.options))
        find(self.against)
        if self.pattern is not None:
            parse_pattern(self.pattern)
        if self.allocation is not None:
            lookup("allocation", self.allocation)
        if self.sparsity is not None:
            density_of(self.sparsity)
        if self.target_speedup is not None and self.sparsity is not None:
            raise SparsityError("--target-speedup and --sparsity exclude each other; give the one that matters")
        if self.recover < 0:
            raise SparsityError(f"--recover: {self.recover} steps; give 0 or more")


@dataclass(frozen=True)
class Pruned:
    """A model made sparse, and how close it is to the dense one before and after recovery."""

    report: PruneReport
    quality: dict[str, Quality]
    recovery: dict[str, Any] | None


@dataclass(frozen=True)
class Dense:
    """What a model was before: it, its outputs `(evaluation, width)` and perplexity on the unseen inputs."""

    model: nn.Module
    vectors: Tensor
    perplexity: float | None


def before(task: Task, stages: Stages) -> Dense:
    """A copy of the task's model, and what it does."""
    model, title = copy.deepcopy(task.model), "outputs of the dense model"
    with stages.stage(title, task.evaluation) as advance:
        return Dense(model, task.vectors(model, advance), task.perplexity_of(model))


def make_sparse(task: Task, job: Job, dense: Dense, stages: Stages) -> Pruned:
    """Prunes `task.model` in place and recovers it, measuring on the unseen inputs after each."""
    report = _prune(task, job, stages)
    quality = {"pruned": measured(task, task.model, dense, stages, "quality after pruning")}
    recovery = None
    if job.recover:
        title = f"recovering after {job.method}"
        recovery = recover(
            task.model,
            dense.model,
            task.recovery,
            steps=job.recover,
            seconds=job.recover_seconds,
            embed=task.embed,
            seed=job.seed,
            stages=stages,
            title=title,
        )
        task.model.eval()
        quality["recovered"] = measured(task, task.model, dense, stages, "quality after recovery")
    return Pruned(report, quality, recovery)


def _prune(task: Task, job: Job, stages: Stages) -> PruneReport:
    sites, _ = find_sites(task.model, job.ignore)
    with stages.stage(f"pruning with {job.method}", len(sites)) as advance:
        return prune(
            task.model,
            job.method,
            sparsity=job.sparsity,
            target_speedup=job.target_speedup,
            example_inputs=task.examples[0],
            pattern=job.pattern,
            allocation=job.allocation,
            data=task.calibration,
            ignore=job.ignore,
            seed=job.seed,
            progress=lambda site, done, total: advance(1),
            **job.options,
        )


def measured(task: Task, model: nn.Module, dense: Dense, stages: Stages, title: str) -> Quality:
    """Quality of a model on the unseen inputs. A language model's neighbours say nothing: it has no `overlap`."""
    with stages.stage(title, task.evaluation) as advance:
        found = compare(task.vectors(model, advance), dense.vectors)
        if dense.perplexity is None:
            return found
        return replace(found, overlap=None, perplexity=task.perplexity_of(model), dense_perplexity=dense.perplexity)


def stored(task: Task, folder: Path, stages: Stages) -> tuple[nn.Module, dict[str, Any]]:
    """Saves the model, reloads it, and checks that both give the same outputs; (reloaded, what was written)."""
    with stages.stage("saving and reloading", 3) as advance:
        said = save(task.model, folder, carry=task.carry)
        advance(1)
        blank = None if task.carry is not None else copy.deepcopy(task.model)
        reloaded = load(folder) if blank is None else load(folder, model=_forget(blank))
        advance(1)
        reloaded.eval()
        example = task.examples[0]
        far = _difference(task.model, reloaded, example)
        advance(1)
    if not far <= _SAME:
        raise FileError(f"{folder}: the reloaded model's outputs differ by {far:.1e}; the file was not kept as written")
    return reloaded, {**said.to_dict(), "reload_difference": far}


def _forget(model: nn.Module) -> nn.Module:
    """The model with other weights, so that a reload which fills nothing in cannot pass for a good one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.123)
    return model


def _difference(a: nn.Module, b: nn.Module, example: Any) -> float:
    from rarefy.calibration.batches import call_model
    from rarefy.engine.rivals.outputs import first_tensor

    with torch.inference_mode():
        outs = [first_tensor(call_model(m.eval(), example, 0)) for m in (a, b)]
    return float((outs[0] - outs[1]).abs().max())


def timed(
    model: nn.Module, dense: nn.Module | None, task: Task, job: Job, stages: Stages
) -> tuple[Compiled | CompiledDecoder, dict[str, Any]]:
    """The compiled model, and what it and its rivals take at the task's shapes."""
    with stages.stage("compiling, timing kernels by layer", 1) as advance:
        fast = compile_model(model, task.examples)
        advance(1)
    with stages.stage("timing beside the others", len(task.examples)) as advance:
        found = benchmark(
            fast,
            task.examples,
            against=job.against,
            dense=dense,
            calibration=task.calibration,
            rounds=job.rounds,
            int8=True,
            progress=lambda what, done, total: advance(1 if done else 0),
        )
    return fast, {"compile": fast.explain().to_dict(), "bench": found.to_dict()}


def compress(task: Task, job: Job, out: Path, stages: Stages, name: str) -> dict[str, Any]:
    """The whole job; the model is saved in `out` before it is timed. Gives the report's sections."""
    started = time.perf_counter()
    job.check()
    folder = writable_folder(out)
    dense = before(task, stages)
    pruned = make_sparse(task, job, dense, stages)
    reloaded, file = stored(task, folder, stages)
    _, times = timed(reloaded, dense.model, task, job, stages)
    return {
        **heading("compress", name, task, job),
        **sections(pruned),
        "file": file,
        **times,
        "seconds": time.perf_counter() - started,
    }


def heading(command: str, name: str, task: Task, job: Job) -> dict[str, Any]:
    """What was asked, of what, where."""
    parameters = sum(p.numel() for p in task.model.parameters())
    return {
        "command": command,
        "environment": environment(),
        "model": {"name": name, "parameters": parameters},
        "job": asdict(job),
        "data": sizes_of(task),
    }


def sizes_of(task: Task) -> dict[str, Any]:
    """How many inputs serve for what."""

    def rows(batches: Sequence[Any]) -> int:
        from rarefy.engine.rivals.outputs import first_tensor

        return sum(len(first_tensor(batch)) for batch in batches)

    return {
        "calibration": rows(task.calibration),
        "recovery": rows(task.recovery),
        "evaluation": task.evaluation,
        "what": "inputs" if task.text is None else "passages",
    }


def sections(pruned: Pruned) -> dict[str, Any]:
    """The report's sections on pruning, quality and recovery."""
    quality = {name: found.to_dict() for name, found in pruned.quality.items()}
    return {"prune": pruned.report.to_dict(), "quality": quality, "recovery": pruned.recovery}
