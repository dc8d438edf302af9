"""Sparse-training methods on real data at equal steps: three nets, four sparsities, three seeds.

    python benchmarks/training/proof.py --data ../shared/data --out FOLDER [--tasks fashion,cifar] [--collect]

One JSON file a training in FOLDER, so the same command goes on where it was stopped. --collect writes proof.md and
proof.svg (--page: another name) beside this file from what is there. Every method sees the same batches, in the same
order, for a seed.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from proof_tasks import TASKS, Task

import rarefy
from rarefy.core.errors import SparsityError
from rarefy.schedules.cosine import Cosine

METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # every: in units of the task's
    "static random, uniform": ("static", {"allocation": "uniform"}),
    "static random, ERK": ("static", {"allocation": "erk"}),
    "SNIP": ("snip", {"data": 8}),
    "SynFlow": ("synflow", {}),
    "SET": ("set", {"every": 1}),
    "SET with RigL's schedule": ("set", {"every": 1, "end": 0.75, "spread": 0.0, "schedule": 0.3}),
    "deep rewiring": ("deep-rewiring", {}),
    "sparse momentum": ("sparse-momentum", {"every": 1}),
    "DST-EE": ("dst-ee", {"every": 1}),
    "RigL": ("rigl", {"every": 1}),
    "SRigL": ("srigl", {"every": 1}),
    "Top-KAST, ERK": ("top-kast", {"every": 1, "allocation": "erk"}),
    "powerpropagation, ERK": ("powerpropagation", {"every": 1, "allocation": "erk"}),
    "AC/DC, ERK": ("acdc", {"every": 2, "allocation": "erk"}),
    "gradual magnitude, uniform": ("gmp-zhu-gupta", {"every": 1}),
    "gradual magnitude, ERK": ("gmp-zhu-gupta", {"every": 1, "allocation": "erk"}),
}
SPARSITIES, SEEDS = (0.8, 0.9, 0.95, 0.98), (0, 1, 2)
DENSE = "dense"


def train(task: Task, label: str, sparsity: float, seed: int) -> dict[str, float]:
    """One training: what is measured at the end. What it kept is checked."""
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(model)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
    order = torch.Generator().manual_seed(1000 + seed)
    step = optimizer.step
    if label != DENSE:
        method, options = METHODS[label]
        options = dict(options)
        if "every" in options:
            options["every"] *= task.every
        if "schedule" in options:  # from that fraction on half a cosine to 0, as RigL
            options["schedule"] = Cosine(options["schedule"], 0.0, round(options["end"] * task.steps))
        if "data" in options:
            options["data"] = [task.draw(order) for _ in range(options["data"])]
            options["loss"] = task.loss
        elif method == "synflow":
            options["data"] = [task.draw(order)[:1]]
        common: dict[str, Any] = {"sparsity": sparsity, "total_steps": task.steps, "seed": seed, "ignore": task.ignore}
        trainer = rarefy.sparse_training(model, optimizer, method, **common, **options)
        step = trainer.step
    begin, last = time.process_time(), 0.0
    for _ in range(task.steps):
        loss = task.loss(model, task.draw(order))
        loss.backward()
        step()
        optimizer.zero_grad()
        decay.step()
        last = float(loss.detach())
    seconds = time.process_time() - begin
    if label != DENSE:
        assert abs(trainer.sparsity - sparsity) < 5e-3, f"{label}: {trainer.sparsity:.3f} of the weights are dropped"
    return {"value": task.measure(model), "loss": last, "seconds": seconds}


def cells(names: list[str], labels: list[str], sparsities: list[float], seeds: list[int]) -> list[tuple[Any, ...]]:
    """Seeds outermost, so that a run that is stopped has whole tables of fewer seeds."""
    sparse = [(n, m, s, k) for k in seeds for n in names for s in sparsities for m in labels]
    return [(n, DENSE, 0.0, k) for k in seeds for n in names] + sparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--sparsities", default=",".join(map(str, SPARSITIES)))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--page", default="proof", help="the page that --collect writes")
    asked = parser.parse_args()
    names, labels = asked.tasks.split(","), asked.methods.split(";")
    asked.out.mkdir(parents=True, exist_ok=True)
    made: dict[str, Task] = {}
    sparsities, seeds = [float(s) for s in asked.sparsities.split(",")], [int(s) for s in asked.seeds.split(",")]
    for name, label, sparsity, seed in cells(names, labels, sparsities, seeds):
        file = asked.out / f"{name}-{label.replace('/', '').replace(' ', '_')}-{sparsity}-{seed}.json"
        if file.exists() or asked.collect:
            continue
        task = made[name] = made.get(name) or TASKS[name](asked.data)
        try:
            found = train(task, label, sparsity, seed)
        except SparsityError as error:  # the method leaves a layer without weights
            found = {"value": math.nan, "seconds": 0.0, "refused": str(error)}
        whole = {"task": name, "method": label, "sparsity": sparsity, "seed": seed, **found}
        file.write_text(json.dumps(whole))
        print(f"{name} {label} {sparsity:.0%} seed {seed}: {found['value']:.2f}, {found['seconds']:.1f} s", flush=True)
    if asked.collect:
        from proof_page import write

        write(asked.page, [json.loads(f.read_text()) for f in sorted(asked.out.glob("*.json"))], labels, sparsities)


if __name__ == "__main__":
    main()
