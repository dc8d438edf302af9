"""The same training in the dense and in the sparse runtime."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

import rarefy
from rarefy.training import SparseTrainer
from training import loops

METHODS: dict[str, dict[str, Any]] = {
    "static": {},
    "set": {"every": 6},
    "rigl": {"every": 6},
    "srigl": {"every": 6, "pattern": "fanin"},
    "dst-ee": {"every": 6},
    "gmp-zhu-gupta": {"every": 6},
    "acdc": {"every": 6},
    "acdc-plus-plus": {"phases": 5},
    "blast-block-sparse": {"every": 6, "pattern": "block:4x4"},
}


def run(
    method: str, runtime: str, task: Callable[[], loops.Task] = loops.mlp, steps: int = 46, **more: Any
) -> tuple[list[float], Any, Any, loops.Task]:
    made = task()
    options = {"total_steps": 48, "sparsity": 0.8, "runtime": runtime, **METHODS.get(method, {}), **more}
    optimizer = options.pop("optimizer", loops.adam)(made.model)
    trainer = rarefy.sparse_training(made.model, optimizer, method, **options)
    losses = list(loops.train(made, trainer, steps))
    return losses, trainer, optimizer, made


def in_both(method: str, **more: Any) -> Iterator[tuple[str, loops.Task, torch.optim.Optimizer, SparseTrainer]]:
    """(runtime, task, optimizer, trainer) of either runtime, to be stepped by the caller."""
    for runtime in ("dense", "sparse"):
        task = loops.mlp()
        optimizer = loops.sgd(task.model)
        options = {"total_steps": 48, "sparsity": 0.8, **more}
        yield (
            runtime,
            task,
            optimizer,
            rarefy.sparse_training(task.model, optimizer, method, runtime=runtime, **options),
        )
