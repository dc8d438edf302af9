"""What the attached selectors keep of some text, and what the blocks lose."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rarefy.activations.job import Job, Placed
from rarefy.activations.report import ActivationSite
from rarefy.calibration.batches import Batch, Run
from rarefy.calibration.taps import Kept, tap
from rarefy.selectors.attach import Masking, paused
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.threshold import Threshold
from rarefy.selectors.top_k import TopK


def measured(model: nn.Module, placed: Sequence[Placed], batches: Sequence[Batch], run: Run) -> dict[str, float]:
    """{name and side: share of zeros} of the selectors while the sparse model runs over the batches."""
    kept = {key(place): Kept(place.selector.mask) for place in placed}
    taps: dict[str, dict[nn.Module, Any]] = {"input": {}, "hidden": {}}
    for place in placed:
        taps[place.side][place.module] = kept[key(place)].add
    tap(model, batches, inputs=taps["input"], outputs=taps["hidden"], run=run)
    return {name: count.sparsity for name, count in kept.items()}


def block_errors(job: Job) -> dict[int, float]:
    """{block: ||f - f_dense|| / ||f_dense||} on a sample of the block's own dense inputs."""
    with paused(job.model):
        trials = job.trials()
    return {number: trial.error() for number, trial in trials.items()}


def key(place: Placed) -> str:
    return f"{place.name} {place.side}"


def site_of(place: Placed, shares: Mapping[str, float], held: Mapping[str, float] | None) -> ActivationSite:
    """The line of the report for one selector."""
    size = sum(weight_of(module).numel() for module in place.reads)
    out = None if held is None else held[key(place)]
    at, k = _decides(place.selector)
    return ActivationSite(place.name, place.side, place.asked, shares[key(place)], out, at, k, size)


def _decides(selector: Masking) -> tuple[float | None, int | None]:
    if isinstance(selector, TopK):
        return None, selector.k
    return (float(selector.threshold.median()), None) if isinstance(selector, Threshold) else (None, None)
