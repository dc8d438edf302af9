"""What the reports of `compress` and `demo` say of the job, the data, and what came of the pruning."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rarefy.recipes.compress_job import Job
from rarefy.recipes.environment import environment
from rarefy.recipes.task import Task

if TYPE_CHECKING:
    from rarefy.recipes.compress import Pruned


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


def sections(pruned: "Pruned") -> dict[str, Any]:
    """The report's sections on pruning, quality and recovery."""
    quality = {name: found.to_dict() for name, found in pruned.quality.items()}
    return {"prune": pruned.report.to_dict(), "quality": quality, "recovery": pruned.recovery}
