"""The published one-shot table: MLPNet on MNIST and ResNet-20 on CIFAR-10, second-order methods beside magnitude.

    python benchmarks/pruning/chita_table.py --data ../shared/data [--models mlpnet,resnet20] [--seeds 0,1,2] [--quick]

No training after pruning, one budget over all pruned weights, biases and batch norms as they are. Gradients of single
training samples, or of groups of them, drawn by the seed. Every cell that is done is kept in `--cells`, so a run goes
on where it was stopped; the table and the plot are written from what is there.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from chita_cell import cell
from chita_models import Case, accuracy, mlpnet, resnet20
from chita_paper import LEVELS, METHODS, PAPER, QUICK, setting

HERE = Path(__file__).parent
CASES = {"mlpnet": mlpnet, "resnet20": resnet20}


def run(case: Case, methods: list[str], levels: tuple[float, ...], seeds: list[int], asked: argparse.Namespace) -> None:
    path = asked.cells
    for seed in seeds:
        for method in methods:
            for sparsity in levels:
                known = json.loads(path.read_text()) if path.exists() else {}
                chosen = setting(case.name, method, sparsity)
                key = f"{case.name} {method} {sparsity} {seed} {chosen}"
                if key in known or (method == "magnitude" and seed > 0):
                    continue
                found = cell(case, method, sparsity, seed, chosen, cache=asked.cache)
                print(key, f"{found['accuracy']:.2f} in {found['seconds']:.1f} s", flush=True)
                merged = (json.loads(path.read_text()) if path.exists() else {}) | {key: found}
                path.with_suffix(".part").write_text(json.dumps(merged, indent=1))
                os.replace(path.with_suffix(".part"), path)


def figures(name: str, method: str, sparsity: float, known: dict[str, Any]) -> list[float]:
    head, tail = f"{name} {method} {sparsity} ", f" {setting(name, method, sparsity)}"
    return [v["accuracy"] for k, v in known.items() if k.startswith(head) and k.endswith(tail)]


def shown(found: list[float]) -> str:
    if not found:
        return "-"
    return f"{mean(found):.2f}" + (f" ± {stdev(found):.2f}" if len(found) > 1 else "")


def table(name: str, known: dict[str, Any]) -> str:
    """Ours (mean and standard deviation over seeds) over the paper's; a cell more than 1.5 points below is marked."""
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
    parser.add_argument("--levels", help="sparsities, all of the table by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--quick", action="store_true", help="two sparsities of one network, one of the other, one seed"
    )
    parser.add_argument("--cells", type=Path, default=HERE / "chita_cells.json")
    parser.add_argument("--cache", type=Path, help="a folder for gradients of dense models, 0.5 GB each")
    parser.add_argument("--only-write", action="store_true", help="the table from the cells that are there")
    asked = parser.parse_args()
    for name in [] if asked.only_write else asked.models.split(","):
        case = CASES[name](asked.data)
        print(name, "dense", f"{accuracy(case.model, case.test):.2f}", flush=True)
        levels = QUICK[name] if asked.quick else LEVELS[name]
        levels = tuple(float(level) for level in asked.levels.split(",")) if asked.levels else levels
        seeds = [0] if asked.quick else [int(seed) for seed in asked.seeds.split(",")]
        run(case, asked.methods.split(","), levels, seeds, asked)
    known = json.loads(asked.cells.read_text())
    for name in PAPER:
        print(f"\n{name}\n\n{table(name, known)}")
    if any(figures(name, m, s, known) for name in PAPER for m in METHODS for s in LEVELS[name]):
        plot(known, HERE / "chita_table.svg")


if __name__ == "__main__":
    main()
