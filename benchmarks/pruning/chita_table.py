"""The published one-shot table: MLPNet on MNIST and ResNet-20 on CIFAR-10, second-order methods beside magnitude.

    python benchmarks/pruning/chita_table.py --data ../shared/data [--models mlpnet,resnet20] [--seeds 3] [--quick]

No training after pruning, one budget over all pruned weights, biases and batch norms as they are. Gradients of single
training samples drawn by the seed. Every cell that is done is kept in `--cells`, so a run goes on where it was stopped;
the table and the plot are written from what is there.
"""

import argparse
import copy
import json
import os
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from chita_models import Case, accuracy, mlpnet, resnet20
from chita_paper import LEVELS, METHODS, PAPER, QUICK, SAMPLES, options
from torch import Tensor, nn

from rarefy.pruning import prune

HERE = Path(__file__).parent
CASES = {"mlpnet": mlpnet, "resnet20": resnet20}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def samples(case: Case, rounds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Training samples in batches, one batch a round."""
    each = SAMPLES[case.name]
    order = torch.randperm(len(case.train[1]), generator=torch.Generator().manual_seed(seed))
    wrapped = order.repeat(-(-each * rounds // len(order)))[: each * rounds]
    return [(case.train[0][i], case.train[1][i]) for i in wrapped.split(each)]


def cell(case: Case, method: str, sparsity: float, seed: int) -> dict[str, Any]:
    model = copy.deepcopy(case.model)
    given = dict(options(case.name, method, sparsity))
    if method != "magnitude":
        rounds = given["rounds"] if method == "chita-plus-plus" else 1
        given |= {"data": samples(case, rounds, seed), "loss": loss}
    began = time.perf_counter()
    report = prune(model, method, sparsity=sparsity, allocation="global", ignore=case.ignore, seed=seed, **given)
    assert abs(report.sparsity - sparsity) < 1e-4, "the budget is met exactly"
    seconds = time.perf_counter() - began
    return {"accuracy": accuracy(model, case.test), "seconds": seconds, "result": dict(report.sites[0].result)}


def run(case: Case, methods: list[str], levels: tuple[float, ...], seeds: int, path: Path) -> None:
    for seed in range(seeds):
        for method in methods:
            for sparsity in levels:
                given = options(case.name, method, sparsity)
                key = f"{case.name} {method} {sparsity} {seed} {SAMPLES[case.name]} {given}"
                known = json.loads(path.read_text()) if path.exists() else {}
                if key in known or (method == "magnitude" and seed > 0):
                    continue
                known[key] = cell(case, method, sparsity, seed)
                print(key, f"{known[key]['accuracy']:.2f} in {known[key]['seconds']:.1f} s", flush=True)
                merged = (json.loads(path.read_text()) if path.exists() else {}) | known
                path.with_suffix(".part").write_text(json.dumps(merged, indent=1))
                os.replace(path.with_suffix(".part"), path)


def figures(name: str, method: str, sparsity: float, known: dict[str, Any]) -> list[float]:
    head, tail = f"{name} {method} {sparsity} ", f" {SAMPLES[name]} {options(name, method, sparsity)}"
    return [v["accuracy"] for k, v in known.items() if k.startswith(head) and k.endswith(tail)]


def shown(found: list[float]) -> str:
    if not found:
        return "-"
    return f"{mean(found):.2f}" + (f" ± {stdev(found) / len(found) ** 0.5:.2f}" if len(found) > 1 else "")


def table(name: str, known: dict[str, Any]) -> str:
    """Ours (mean, standard error over seeds) over the paper's; a cell more than 1.5 points below is marked."""
    lines = ["| | " + " | ".join(f"{s:.0%}" for s in LEVELS[name]) + " |", "|---" * (1 + len(LEVELS[name])) + "|"]
    for method in METHODS:
        cells = []
        for sparsity, paper in zip(LEVELS[name], PAPER[name][method], strict=True):
            found = figures(name, method, sparsity, known)
            below = bool(found) and mean(found) < paper - 1.5
            cells.append(f"{shown(found)}{' (!)' if below else ''} [{paper:.2f}]")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(known: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "rarefy"
    figure, axes = plt.subplots(1, len(PAPER), figsize=(11, 4.2))
    for axis, name in zip(axes, PAPER, strict=True):
        for number, method in enumerate(METHODS):
            points = [(s, figures(name, method, s, known)) for s in LEVELS[name]]
            axis.plot(LEVELS[name], PAPER[name][method], ":", color=f"C{number}", linewidth=1)
            axis.plot(
                *zip(*[(s, mean(f)) for s, f in points if f], strict=True), "o-", color=f"C{number}", label=method
            )
        axis.set(title=name, xlabel="sparsity", ylabel="test accuracy, %")
    axes[0].legend(title="ours; dotted: published", loc="lower left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="mlpnet,resnet20")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="two sparsities of one network, one of the other, one seed"
    )
    parser.add_argument("--cells", type=Path, default=HERE / "chita_cells.json")
    parser.add_argument("--only-write", action="store_true", help="the table from the cells that are there")
    asked = parser.parse_args()
    for name in [] if asked.only_write else asked.models.split(","):
        case = CASES[name](asked.data)
        print(name, "dense", f"{accuracy(case.model, case.test):.2f}", flush=True)
        levels = QUICK[name] if asked.quick else LEVELS[name]
        run(case, asked.methods.split(","), levels, 1 if asked.quick else asked.seeds, asked.cells)
    known = json.loads(asked.cells.read_text())
    for name in PAPER:
        print(f"\n{name}\n\n{table(name, known)}")
    if any(figures(name, m, s, known) for name in PAPER for m in METHODS for s in LEVELS[name]):
        plot(known, HERE / "chita_table.svg")


if __name__ == "__main__":
    main()
