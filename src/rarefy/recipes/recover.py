"""Recovery of a pruned model: distillation against the dense one with the mask fixed."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from rarefy.recipes.stages import Stages


def recover(
    student: nn.Module, teacher: nn.Module, batches: Sequence[Any], *, steps: int, seed: int, stages: Stages, title: str
) -> dict[str, Any]:
    """Trains `student` in place for `steps` batches; the zeros stay zeros. Gives what the training reports."""
    from rarefy.finetuning import distill

    with stages.stage(title, steps) as advance:
        report = distill(student, teacher, batches, steps=steps, seed=seed, progress=lambda *_: advance(1))
    return dict(report.to_dict())
