"""What each method of proof.py costs on its nets: a step's time and the bytes held, beside plain dense training.

    python benchmarks/training/proof_cost.py --data ../shared/data

Each net is trained for some steps with several changes of masks on the way, then steps between two changes are timed in
turn: with masks over dense layers as proof.py trains, and on the kept weights only where the method allows it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from proof import METHODS
from proof_tasks import TASKS, Task
from sides import HERE, Sides, held, machine, table, timed, training

import rarefy

SPARSITY, CHANGES, MANY = 0.95, 3, 10**6
DENSE = "dense torch"
Side = tuple[Callable[[], float], int]


def side(task: Task, label: str, runtime: str) -> Side | None:
    """(a step between two changes of masks, bytes held after CHANGES of them); None where the runtime is refused."""
    torch.manual_seed(0)
    model, order = task.model(), torch.Generator().manual_seed(1)
    optimizer, trainer = task.optimizer(model), None
    step: Callable[[], Any] = optimizer.step
    if label != DENSE:
        method, options = METHODS[label]
        options = {key: value for key, value in options.items() if key not in ("schedule", "end")}
        if "every" in options:
            options["every"] *= task.every
        if "data" in options:
            options |= {"data": [task.draw(order) for _ in range(options["data"])], "loss": task.loss}
        elif method == "synflow":
            options["data"] = [task.draw(order)[:1]]
        # The end is within the changes, so that what becomes sparse over the steps is as sparse as it gets.
        common: dict[str, Any] = {"sparsity": SPARSITY, "total_steps": CHANGES * task.every, "ignore": task.ignore}
        trainer = rarefy.sparse_training(model, optimizer, method, seed=0, runtime=runtime, **common, **options)
        step = trainer.step
        if runtime == "sparse" and "sparse" not in trainer.runtime.values():
            return None

    def call() -> float:
        loss = task.loss(model, task.draw(order))
        loss.backward()
        step()
        value = float(loss.detach())
        optimizer.zero_grad()
        return value

    for _ in range(CHANGES * task.every):
        call()
    task.loss(model, task.draw(order)).backward()
    size = held(model, optimizer, trainer)
    optimizer.zero_grad()
    return call, size


def cost(task: Task, rounds: int) -> str:
    made: dict[str, Side] = {}
    for label in (DENSE, *METHODS):
        for runtime, name in (("dense", label), ("sparse", f"{label}, packed")):
            if label == DENSE and runtime == "sparse":
                continue
            one = side(task, label, runtime)
            if one is not None:
                made[name] = one
    sides = Sides()
    sides.turns = {name: training(call) for name, (call, _) in made.items()}
    times = timed(sides, rounds, seconds=0.1, most=20)
    rows = [
        [name, times.ms(name), times.ratio(name, DENSE), size / 2**20, size / made[DENSE][1]]
        for name, (_, size) in made.items()
    ]
    head = ["", "ms a step", "times as fast as dense", "held MiB", "of dense"]
    return f"## {task.name}\n\n" + table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="fashion,cifar,shakespeare")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    parts = [cost(TASKS[name](asked.data), asked.rounds) for name in asked.tasks.split(",")]
    head = f"# What the methods cost\n\n`python benchmarks/training/proof_cost.py`; {machine()}\n\n"
    head += (
        f"{SPARSITY:.0%} zeros, after {CHANGES} changes of masks. Held: weights, gradients, optimizer state, masks or\n"
    )
    text = head + "indexes, and what the method remembers.\n\n" + "\n\n".join(parts) + "\n"
    print(text)
    (HERE / "proof_cost.md").write_text(text)


if __name__ == "__main__":
    main()
