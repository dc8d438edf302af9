"""Quality against sparsity, one-shot: the same model pruned by several methods to several sparsities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.pruning import prune
from rarefy.recipes.quality import compare
from rarefy.recipes.stages import Stages
from rarefy.recipes.task import Task

METHODS = ("magnitude", "wanda", "sparsegpt")
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Point:
    """One method at one sparsity, without recovery."""

    method: str
    sparsity: float
    cosine: float
    overlap: float | None


def sweep(
    task: Task,
    dense_vectors: Tensor,
    stages: Stages,
    *,
    methods: Sequence[str] = METHODS,
    sparsities: Sequence[float] = SPARSITIES,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> list[Point]:
    """Every method at every sparsity, each from the same dense weights, which `task.model` has again afterwards."""
    dense = {name: value.clone() for name, value in task.model.state_dict().items()}
    points = []
    try:
        with stages.stage("quality against sparsity", len(methods) * len(sparsities)) as advance:
            for method in methods:
                for sparsity in sparsities:
                    _restore(task.model, dense)
                    prune(task.model, method, sparsity=sparsity, data=task.calibration, ignore=ignore, seed=seed)
                    quality = compare(task.vectors(task.model, None), dense_vectors)
                    points.append(Point(method, sparsity, quality.cosine, quality.overlap))
                    advance(1)
    finally:
        _restore(task.model, dense)
    return points


def _restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(state[name])
