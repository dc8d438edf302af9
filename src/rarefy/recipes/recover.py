"""Recovery of a pruned model: distillation against the dense one with the mask fixed."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from rarefy.finetuning import distill
from rarefy.finetuning.distill import Embed
from rarefy.finetuning.distill_state import DistillState, Keep
from rarefy.recipes.stages import Advance, Stages


def recover(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    *,
    steps: int,
    seconds: float | None,
    embed: Embed | None,
    seed: int,
    stages: Stages,
    title: str,
    state: DistillState | None = None,
    keep: Keep | None = None,
) -> dict[str, Any]:
    """Trains `student` in place for `steps` batches or `seconds`, whichever ends first; the zeros stay zeros.

    embed: (output, batch) -> vectors whose direction matters, where there is such a thing. Gives what the training
    reports. state, keep: of `distill`, to go on from and to keep.
    """
    units = steps if seconds is None else math.ceil(seconds)
    with stages.stage(title, units) as advance:
        report = distill(
            student,
            teacher,
            batches,
            steps=steps,
            seconds=seconds,
            embed=embed,
            seed=seed,
            progress=_counted(advance, steps, units, 0.0 if state is None else state.seconds),
            state=state,
            keep=keep,
        )
    return report.to_dict()


def _counted(advance: Advance, steps: int, units: int, used: float) -> Callable[[int, int, float], None]:
    """Counts steps, or seconds where time is the limit: the larger share of the two is how far the training is.

    used: seconds of earlier processes.
    """
    started, shown = time.perf_counter() - used, 0

    def progress(step: int, of: int, loss: float) -> None:
        nonlocal shown
        spent = (time.perf_counter() - started) / units if units != steps else 0.0
        now = min(units, int(units * max(step / steps, spent)))
        advance(now - shown)
        shown = now

    return progress
