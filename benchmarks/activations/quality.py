"""Perplexity of a trained Llama-shaped model of bytes against activation sparsity, every training-free method.

    python benchmarks/activations/quality.py --data ../shared/data --out FOLDER [--collect]

Calibration: windows of 256 bytes drawn from the first 95 % of SciFact's titles and abstracts; measured on the first
windows of the rest. "asked" is the share of zeros that a method is asked for: at all inputs of all projections, or
(CATS, CHESS, lazy neurons) of the hidden neurons; "not read" is the share of all the projections' weights that a token
then skips, low-rank parts and rotations counted as read. Cells are kept in FOLDER, so the same command goes on where it
was stopped. One thread: OMP_NUM_THREADS=1.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "quality"))

from language_model import text_of  # noqa: E402

import rarefy  # noqa: E402
from rarefy.recipes.evaluations.language import Perplexity, batches_of, windows  # noqa: E402

SPARSITIES = (0.15, 0.25, 0.4, 0.5, 0.65)
FIRST = (0.5, 0.65, 0.4, 0.25, 0.15)  # the order of the cells
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "teal, uniform": ("teal", {"allocation": "uniform"}),
    "teal": ("teal", {}),
    "teal, top-k, uniform": ("teal", {"allocation": "uniform", "form": "top-k"}),
    "wina, top-k, uniform": ("wina", {"allocation": "uniform"}),
    "wina, threshold, uniform": ("wina", {"allocation": "uniform", "form": "threshold"}),
    "wina, threshold": ("wina", {"form": "threshold"}),
    "wina, rotated, top-k, uniform": ("wina", {"allocation": "uniform", "rotate": True}),
    "r-sparse": ("r-sparse", {}),
    "larosa": ("larosa", {}),
    "cats": ("cats", {}),
    "chess": ("chess", {}),
    "lazy-neuron-topk": ("lazy-neuron-topk", {}),
}
ROWS, WINDOW, TRIAL = 4, 256, 512


def cell(asked: argparse.Namespace, label: str, sparsity: float) -> dict[str, Any]:
    """Perplexity and shares of one method at one sparsity, on a model as it was loaded."""
    seen, unseen = text_of(asked.data)
    model = rarefy.load(asked.data / "weights" / "llama-4m-bytes")
    judge = Perplexity(unseen[: asked.unseen * WINDOW].view(-1, WINDOW))
    if label == "dense":
        return judge(model)
    name, options = METHODS[label]
    began = time.process_time()
    report = rarefy.sparsify_activations(
        model,
        name,
        sparsity=sparsity,
        data=batches_of(windows(seen, WINDOW, asked.calibration, 0), ROWS),
        held_out=batches_of(unseen[-16 * WINDOW :].view(-1, WINDOW), ROWS),
        trial_tokens=TRIAL,
        **options,
    )
    spent = time.process_time() - began
    off = max(abs(site.held_out - site.asked) for site in report.sites if site.held_out is not None)
    return judge(model) | {
        "not_read": report.sparsity,
        "held_out": report.held_out,
        "worst_place": off,
        "worst_block": max(report.block_errors.values()),
        "seconds": spent,
    }


def run(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every cell, from the folder where it is there."""
    asked.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for label, sparsity in [("dense", 0.0)] + [(m, s) for s in FIRST for m in METHODS]:
        key = f"{label} {sparsity}"
        file = asked.out / f"{key.replace(' ', '_').replace(',', '')}.json"
        if not file.exists() and not asked.collect:
            file.write_text(json.dumps(cell(asked, label, sparsity)), "utf-8")
            print(key, file.read_text("utf-8"), flush=True)
        if file.exists():
            found[key] = json.loads(file.read_text("utf-8"))
    return found


def at_one_percent(dense: float, points: list[tuple[float, float]]) -> float:
    """The share not read at which perplexity is 1 % above dense: log-perplexity is interpolated between the points."""
    limit, before = 0.01, (0.0, 0.0)
    for share, perplexity in points:
        rise = math.log(perplexity / dense) / math.log(1.01) * 0.01
        if rise > limit:
            return before[0] + (share - before[0]) * (limit - before[1]) / (rise - before[1])
        before = (share, rise)
    return before[0]


def table(found: dict[str, dict[str, Any]]) -> str:
    """Perplexity (share not read) by method and sparsity asked."""
    dense = found["dense 0.0"]["perplexity"]
    head = " | ".join(f"{s:.0%}" for s in SPARSITIES)
    lines = [
        f"Dense: {dense:.3f}.\n",
        f"| method | {head} | PPL-1 % | worst place |",
        "|---" * (len(SPARSITIES) + 3) + "|",
    ]
    for label in METHODS:
        cells = [found.get(f"{label} {s}") for s in SPARSITIES]
        shown = [f"{c['perplexity']:.3f} ({c['not_read']:.0%})" if c else "" for c in cells]
        points = [(c["not_read"], c["perplexity"]) for c in cells if c]
        one = f"{at_one_percent(dense, points):.0%}" if points else ""
        off = f"{max(c['worst_place'] for c in cells if c):.1%}" if points else ""
        lines.append(f"| {label} | {' | '.join(shown)} | {one} | {off} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=16, help="windows")
    parser.add_argument("--unseen", type=int, default=20, help="windows to measure on")
    parser.add_argument("--collect", action="store_true", help="the table from the cells that are there")
    asked = parser.parse_args()
    print(table(run(asked)))


if __name__ == "__main__":
    main()
