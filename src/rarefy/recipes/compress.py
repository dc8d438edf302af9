"""The main job on any model: prune, recover, save, reload, time, and say what came of it."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.site import find_sites
from rarefy.engine import Compiled, CompiledDecoder, benchmark
from rarefy.engine import compile as compile_model
from rarefy.pruning import PruneReport
from rarefy.recipes.compress_job import Job, job_words
from rarefy.recipes.compress_model import changes, put_back
from rarefy.recipes.compress_report import heading, sections
from rarefy.recipes.compress_resume import model_of, opened
from rarefy.recipes.compress_save import stored_once
from rarefy.recipes.compress_state import State
from rarefy.recipes.measure import prune
from rarefy.recipes.quality import Quality, compare
from rarefy.recipes.recover import recover
from rarefy.recipes.report_file import writable_folder, write_report
from rarefy.recipes.stages import Stages
from rarefy.recipes.task import Task


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


def before(task: Task, stages: Stages, state: State | None = None) -> Dense:
    """A copy of the task's model, and what it does. Outputs that take more than the model's weights are not kept."""
    state, model, title = state or State(), copy.deepcopy(task.model), "outputs of the dense model"
    if "dense" in state.done:
        return Dense(model, state.tensors["dense"].exact()["vectors"], state.done["dense"])
    with stages.stage(title, task.evaluation) as advance:
        dense = Dense(model, task.vectors(model, advance), task.perplexity_of(model))
    if dense.vectors.nbytes <= sum(parameter.nbytes for parameter in model.parameters()):
        state.commit("dense", dense.perplexity, {"vectors": dense.vectors})
    return dense


def make_sparse(task: Task, job: Job, dense: Dense, stages: Stages, state: State | None = None) -> Pruned:
    """Prunes `task.model` in place and recovers it, measuring on the unseen inputs after each.

    state: of this job; what is done there is not done again.
    """
    state = state or State()
    if (reached := model_of(state)) is not None:
        put_back(task.model, reached)
    if "pruned" in state.done:
        report = PruneReport.from_dict(state.done["pruned"])
    else:
        report = _prune(task, job, stages)
        state.commit("pruned", report.to_dict(), changes(task.model, dense.model))
    quality = {"pruned": _quality("pruned", task, dense, stages, state, "quality after pruning")}
    if not job.recover:
        return Pruned(report, quality, None)
    recovery = _recover(task, job, dense, stages, state)
    quality["recovered"] = _quality("recovered", task, dense, stages, state, "quality after recovery")
    return Pruned(report, quality, recovery)


def _quality(which: str, task: Task, dense: Dense, stages: Stages, state: State, title: str) -> Quality:
    stage = f"{which} quality"
    if stage not in state.done:
        state.commit(stage, measured(task, task.model, dense, stages, title).to_dict())
    return Quality(**state.done[stage])


def _recover(task: Task, job: Job, dense: Dense, stages: Stages, state: State) -> dict[str, Any]:
    """What the training reports. Its losses, one a step, lie beside the weights: a journal cannot take so many."""
    if "recovered" in state.done:
        task.model.eval()
        known = state.tensors["recovered"].exact()["losses"]
        return {**state.done["recovered"], "losses": tuple(known.tolist())}
    recovery = recover(
        task.model,
        dense.model,
        task.recovery,
        steps=job.recover,
        seconds=job.recover_seconds,
        embed=task.embed,
        seed=job.seed,
        stages=stages,
        title=f"recovering after {job.method}",
        state=state.checkpoint,
        keep=state.keep,
    )
    task.model.eval()
    said = {name: value for name, value in recovery.items() if name != "losses"}
    losses = torch.tensor(recovery["losses"], dtype=torch.float64)
    state.commit("recovered", said, changes(task.model, dense.model) | {"losses": losses})
    return recovery


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


def _timed_once(model: nn.Module, dense: Dense, task: Task, job: Job, stages: Stages, state: State) -> dict[str, Any]:
    """What `timed` says; what an earlier process has measured counts if it was against the same rivals."""
    asked = [list(job.against), job.rounds]
    if "times" not in state.done or state.done["times"]["asked"] != asked:
        found = timed(model, dense.model, task, job, stages)[1]
        state.commit("times", {"asked": asked, "found": found})
    return dict(state.done["times"]["found"])


def compress(
    task: Task, job: Job, out: Path, stages: Stages, name: str, *, every: float | None = None
) -> dict[str, Any]:
    """The whole job; the model is saved in `out` before it is timed, and the report is written. Gives its sections.

    Killed at any moment, the same call goes on from the last finished stage, within recovery from its last state, to
    the same model bit for bit (same machine and number of threads). What that takes lies in `out/.rarefy-compress`
    until the job ends: about the bytes of one model. State of another job there is given up, and `stages` told so.
    every: seconds between two states of recovery; None: 20, or more where writing them would take over a fortieth of
    the time. Raises FileError where another process compresses into `out`, and what pruning and saving raise.
    """
    job.check()
    folder = writable_folder(out)
    with opened(folder, job_words(task, job), stages, every) as state:
        head = heading("compress", name, task, job)
        dense = before(task, stages, state)
        pruned = make_sparse(task, job, dense, stages, state)
        reloaded, file = stored_once(task, folder, stages, state)
        times = _timed_once(reloaded, dense, task, job, stages, state)
        report = {**head, **sections(pruned), "file": file, **times, "seconds": state.seconds, "runs": state.runs}
        write_report(report, folder)
    return report
