"""The page of proof.py: tables of means with spread, what was expected of them, and a plot a task."""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proof_tasks import TASKS
from sides import machine

HERE = Path(__file__).parent
UNITS = {
    "fashion": ("Fashion-MNIST, 784-300-100-10, 600 steps of 128", "accuracy, %", 1),
    "fashion-long": ("Fashion-MNIST for longer, 784-300-100-10, 3000 steps of 128", "accuracy, %", 1),
    "cifar": ("CIFAR-10, a residual net of 7 convolutions, 300 steps of 64", "accuracy, %", 1),
    "shakespeare": ("tinyshakespeare, a byte transformer of 2 layers, 300 steps of 32 x 64", "bits a byte", -1),
}
ORDERS = [
    ("SET", "static random, ERK"),
    ("SET with RigL's schedule", "static random, ERK"),
    ("RigL", "SET"),
    ("gradual magnitude, ERK", "RigL"),
    ("static random, ERK", "static random, uniform"),
]
Found = dict[tuple[str, str, float], list[float]]


def spread(values: list[float]) -> str:
    """Mean and standard deviation; NaN stands for a training that was refused."""
    if any(math.isnan(value) for value in values):
        return "refused: a layer is emptied"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def _table(task: str, found: Found, methods: Iterable[str], sparsities: list[float]) -> str:
    title, unit, _ = UNITS[task]
    dense = found.get((task, "dense", 0.0), [])
    lines = [f"## {title}", "", f"{unit}; mean ± standard deviation over seeds; dense: {spread(dense)}", ""]
    lines += ["| method | " + " | ".join(f"{s:.0%}" for s in sparsities) + " |", "|---" * (len(sparsities) + 1) + "|"]
    for method in methods:
        cells = [found.get((task, method, s), []) for s in sparsities]
        if any(cells):
            lines.append(f"| {method} | " + " | ".join(spread(c) if c else "" for c in cells) + " |")
    return "\n".join(lines)


def _orders(task: str, found: Found, sparsities: list[float]) -> str:
    """Where the order that the literature agrees on holds: the mean gain, and in how many of the seeds there is one."""
    sign = UNITS[task][2]
    lines = ["| better | than | " + " | ".join(f"{s:.0%}" for s in sparsities) + " |"]
    lines.append("|---" * (len(sparsities) + 2) + "|")
    for better, worse in ORDERS:
        cells = []
        for s in sparsities:
            a, b = found.get((task, better, s), []), found.get((task, worse, s), [])
            if len(a) < 2 or len(a) != len(b):
                cells.append("")
                continue
            gains = [sign * (x - y) for x, y in zip(a, b, strict=True)]
            cells.append(f"{statistics.mean(gains):+.2f} ({sum(g > 0 for g in gains)} of {len(gains)})")
        if any(cells):
            lines.append(f"| {better} | {worse} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plot(page: str, tasks: list[str], found: Found, methods: list[str], sparsities: list[float]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tasks), figsize=(6.0 * len(tasks), 4.8), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for number, method in enumerate(methods):
            points = [(s, found[(task, method, s)]) for s in sparsities if (task, method, s) in found]
            style = "-" if number < 10 else "--"
            axis.plot(
                [100 * s for s, _ in points], [statistics.mean(v) for _, v in points], style, marker="o", label=method
            )
        dense = found.get((task, "dense", 0.0))
        if dense:
            axis.axhline(statistics.mean(dense), color="black", linewidth=0.8, label="dense")
        axis.set_title(UNITS[task][0].partition(",")[0])
        axis.set_xlabel("zeros, %")
        axis.set_ylabel(UNITS[task][1])
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(HERE / f"{page}.svg", bbox_inches="tight", metadata={"Date": None})


def write(page: str, cells: list[dict[str, Any]], methods: list[str], sparsities: list[float]) -> None:
    """<page>.md and <page>.svg from the trainings that are there."""
    found: Found = {}
    for cell in sorted(cells, key=lambda c: c["seed"]):
        found.setdefault((cell["task"], cell["method"], cell["sparsity"]), []).append(cell["value"])
    tasks = [task for task in TASKS if any(key[0] == task for key in found)]
    parts = ["# Sparse training on real data", "", f"`python benchmarks/training/proof.py`; {machine()}", ""]
    parts.append(
        "Every method sees the same batches for a seed. The last layer of the convnet and of the transformer and the"
    )
    parts.append("first convolution stay dense; sparsity is over the rest.")
    for task in tasks:
        parts += ["", _table(task, found, methods, sparsities), "", "The order of the literature, gain and seeds:", ""]
        parts.append(_orders(task, found, sparsities))
    parts += ["", f"![accuracy against sparsity]({page}.svg)"]
    note = HERE / f"{page}_note.md"
    if note.exists():
        parts += ["", note.read_text().rstrip()]
    text = "\n".join(parts) + "\n"
    print(text)
    (HERE / f"{page}.md").write_text(text)
    _plot(page, tasks, found, methods, sparsities)
