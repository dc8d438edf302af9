"""Perplexity of a trained Llama-shaped model of bytes against activation sparsity, every training-free method.

    python benchmarks/activations/quality.py --data ../shared/data --out FOLDER [--seeds 0 1 2] [--only NAME] [--write]

Calibration: windows of 256 bytes drawn by the seed from the first 95 % of SciFact's titles and abstracts; measured on
the first windows of the rest, the same for every seed. "asked" is the share of zeros that a method is asked for: at all
inputs of all projections, or (CATS, CHESS, lazy neurons) of the hidden neurons; "not read" is the share of all the
projections' weights that a token then skips, low-rank parts and rotations counted as read. Cells are kept in FOLDER, so
the same command goes on where it was stopped; take a fresh one when the library has changed. --write puts the tables
into results.md, between its marks. One thread: OMP_NUM_THREADS=1.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "quality"))

from language_model import text_of  # noqa: E402

import rarefy  # noqa: E402
from rarefy.recipes.evaluations.language import Perplexity, batches_of, windows  # noqa: E402

SPARSITIES = (0.25, 0.4, 0.5, 0.65)
FIRST = (0.65, 0.5, 0.4, 0.25)  # the order of the cells
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "teal, uniform": ("teal", {"allocation": "uniform"}),
    "teal": ("teal", {}),
    "teal, top-k": ("teal", {"form": "top-k"}),
    "teal, top-k, uniform": ("teal", {"allocation": "uniform", "form": "top-k"}),
    "wina": ("wina", {}),
    "wina, top-k, uniform": ("wina", {"allocation": "uniform"}),
    "wina, threshold, uniform": ("wina", {"allocation": "uniform", "form": "threshold"}),
    "wina, threshold": ("wina", {"form": "threshold"}),
    "wina, rotated, top-k, uniform": ("wina", {"allocation": "uniform", "rotate": True}),
    "r-sparse": ("r-sparse", {}),
    "r-sparse, greedy": ("r-sparse", {"allocation": "greedy"}),
    "larosa": ("larosa", {}),
    "cats": ("cats", {}),
    "chess": ("chess", {}),
    "lazy-neuron-topk": ("lazy-neuron-topk", {}),
}
COARSE: dict[str, tuple[str, dict[str, Any]]] = {  # greedy steps five times as large, at the largest share only
    "teal, step 0.025": ("teal", {"step": 0.025}),
    "wina, threshold, step 0.025": ("wina", {"form": "threshold", "step": 0.025}),
}
BESIDE = (  # each with the plain method of the same form and the same way of sharing the budget
    ("teal", "teal, uniform"),
    ("wina", "teal, top-k"),
    ("wina, threshold", "teal"),
    ("wina, top-k, uniform", "teal, top-k, uniform"),
    ("wina, threshold, uniform", "teal, uniform"),
    ("r-sparse", "teal, uniform"),
    ("r-sparse, greedy", "teal"),
    ("wina", "teal"),
    ("larosa", "teal, top-k, uniform"),
)
SHARES_OF = {"teal, top-k": "teal", "wina": "wina, threshold", "r-sparse, greedy": "teal"}
"""Methods whose greedy search is another's, word for word: it is run once."""
FIXED = ("teal, top-k, uniform", "wina, top-k, uniform", "wina, rotated, top-k, uniform", "lazy-neuron-topk")
"""Methods that do not look at the calibration text."""
ROWS, WINDOW, TRIAL = 4, 256, 512
BEGIN, END = "<!-- tables: begin (quality.py --write) -->", "<!-- tables: end -->"
Cells = dict[tuple[str, float], list[dict[str, Any]]]  # (method, share): one a seed


def cell(asked: argparse.Namespace, label: str, sparsity: float, seed: int) -> dict[str, Any]:
    """Perplexity and shares of one method at one sparsity, on a model as it was loaded."""
    seen, unseen = text_of(asked.data)
    model = rarefy.load(asked.data / "weights" / "llama-4m-bytes")
    judge = Perplexity(unseen[: asked.unseen * WINDOW].view(-1, WINDOW))
    if label == "dense":
        return judge(model)
    name, options = (METHODS | COARSE)[label]
    if label in SHARES_OF:
        options = options | {
            "allocation": json.loads(file_of(asked, SHARES_OF[label], sparsity, seed).read_text())["asked"]
        }
    began = time.process_time()
    report = rarefy.sparsify_activations(
        model,
        name,
        sparsity=sparsity,
        data=batches_of(windows(seen, WINDOW, asked.calibration, seed), ROWS),
        held_out=batches_of(unseen[-16 * WINDOW :].view(-1, WINDOW), ROWS),
        trial_tokens=TRIAL,
        seed=seed,
        **options,
    )
    spent = time.process_time() - began
    off = max(abs(site.held_out - site.asked) for site in report.sites if site.held_out is not None)
    return judge(model) | {
        "not_read": report.sparsity,
        "held_out": report.held_out,
        "worst_place": off,
        "asked": {site.name: site.asked for site in report.sites},
        "block_errors": list(report.block_errors.values()),
        "seconds": spent,
    }


def file_of(asked: argparse.Namespace, label: str, sparsity: float, seed: int) -> Path:
    name: str = f"{label} {sparsity} {seed}.json".replace(" ", "_").replace(",", "")
    return Path(asked.out) / name


def run(asked: argparse.Namespace) -> tuple[float, Cells]:
    """The dense perplexity and every cell, from the folder where it is there."""
    asked.out.mkdir(parents=True, exist_ok=True)
    cells = {}
    order = sorted(METHODS, key=SHARES_OF.__contains__)
    jobs = [(m, s, seed) for seed in asked.seeds for s in asked.shares for m in order if asked.only in (None, m)]
    jobs += [(m, SPARSITIES[-1], seed) for seed in asked.seeds for m in COARSE if asked.only in (None, m)]
    for label, sparsity, seed in [("dense", 0.0, 0), *jobs]:
        file = file_of(asked, label, sparsity, 0 if label in FIXED else seed)
        if not file.exists() and not asked.collect:
            file.write_text(json.dumps(cell(asked, label, sparsity, seed)), "utf-8")
            print(file.stem, file.read_text("utf-8"), flush=True)
        if file.exists():
            cells[(label, sparsity, seed)] = json.loads(file.read_text("utf-8"))
    found: Cells = {}
    for (label, sparsity, seed), one in cells.items():
        if (
            asked.only or label in COARSE or all((m, sparsity, seed) in cells for m in METHODS)
        ):  # draws with every method, like for like
            found.setdefault((label, sparsity), []).append(one)
    return cells[("dense", 0.0, 0)]["perplexity"], found


def at_one_percent(dense: float, points: list[tuple[float, float]]) -> float:
    """The share not read at which perplexity is 1 % above dense: log-perplexity is interpolated between the points."""
    limit, before = 0.01, (0.0, 0.0)
    for share, perplexity in points:
        rise = math.log(perplexity / dense) / math.log(1.01) * 0.01
        if rise > limit:
            return before[0] + (share - before[0]) * (limit - before[1]) / (rise - before[1])
        before = (share, rise)
    return before[0]


def mean(cells: list[dict[str, Any]], what: str) -> float:
    return statistics.fmean(c[what] for c in cells)


def header(first: str, columns: list[str]) -> list[str]:
    return [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def table(dense: float, found: Cells) -> list[str]:
    """Mean perplexity (mean share not read) by method and sparsity asked."""
    lines = header("method", [*(f"{s:.0%}" for s in SPARSITIES), "PPL-1 %", "worst place"])
    for label in METHODS:
        rows = [found.get((label, s), []) for s in SPARSITIES]
        shown = [f"{mean(row, 'perplexity'):.3f} ({mean(row, 'not_read'):.0%})" if row else "" for row in rows]
        points = [(mean(row, "not_read"), mean(row, "perplexity")) for row in rows if row]
        one = f"{at_one_percent(dense, points):.0%}" if points else ""
        off = f"{max((c['worst_place'] for row in rows for c in row), default=0.0):.1%}"
        lines.append(f"| {label} | {' | '.join(shown)} | {one} | {off} |")
    return lines


def ranges(found: Cells) -> list[str]:
    """Smallest and largest perplexity over the seeds of the calibration text; one number where it does not matter."""
    lines = header("method", [f"{s:.0%} zeros" for s in SPARSITIES])
    for label in METHODS:
        ends = [[c["perplexity"] for c in found.get((label, s), [])] for s in SPARSITIES]
        shown = [f"{min(e):.3f} - {max(e):.3f}" if e and max(e) - min(e) > 5e-4 else f"{e[0]:.3f}" for e in ends if e]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return lines


def beside(found: Cells) -> list[str]:
    """How much larger the perplexity is than another method's on the same calibration text."""
    lines = header("perplexity over", [f"at {s:.0%}" for s in SPARSITIES])
    for label, other in BESIDE:
        shown = []
        for s in SPARSITIES:
            pairs = zip(found.get((label, s), []), found.get((other, s), []), strict=False)
            more = [a["perplexity"] / b["perplexity"] - 1.0 for a, b in pairs]
            ends = f" ({min(more):+.1%} to {max(more):+.1%})" if len(more) > 1 else ""
            shown.append(f"{statistics.fmean(more):+.1%}{ends}" if more else "")
        lines.append(f"| {label} over {other} | {' | '.join(shown)} |")
    return lines


def blocks(found: Cells) -> list[str]:
    """Relative output errors of the blocks at the largest share, means over the seeds."""
    lines = header("block error at 65%", [f"block {i}" for i in range(6)])
    for label in METHODS:
        errors = [c["block_errors"] for c in found.get((label, SPARSITIES[-1]), [])]
        if errors:
            lines.append(f"| {label} | {' | '.join(f'{statistics.fmean(e):.3f}' for e in zip(*errors, strict=True))} |")
    return lines


def steps(found: Cells) -> list[str]:
    """Perplexity of every draw at the largest share, with greedy steps of 0.005 and of 0.025 of a block."""
    at = SPARSITIES[-1]
    count = len(found.get(("teal", at), []))
    lines = header(f"greedy at {at:.0%}", [f"draw {i}" for i in range(count)])
    for label in ("teal", "teal, step 0.025", "wina, threshold", "wina, threshold, step 0.025"):
        shown = [f"{c['perplexity']:.3f}" for c in found.get((label, at), [])]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return lines


def page(dense: float, found: Cells) -> str:
    draws = ", ".join(f"{len(found.get(('teal', s), []))} at {s:.0%}" for s in SPARSITIES)
    parts = [
        [f"Dense: {dense:.3f}. Means over draws of the calibration text: {draws}."],
        table(dense, found),
        ["Smallest to largest over the draws:"],
        ranges(found),
        ["Perplexity relative to another method on the same text, mean (smallest to largest):"],
        beside(found),
        ["Steps of 0.005 of a block (the default) and of 0.025:"],
        steps(found),
        ["||f - f_dense|| / ||f_dense|| of each block on its dense inputs:"],
        blocks(found),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=16, help="windows")
    parser.add_argument("--unseen", type=int, default=20, help="windows to measure on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the calibration text")
    parser.add_argument("--shares", type=float, nargs="+", default=FIRST, choices=SPARSITIES, help="of zeros asked")
    parser.add_argument("--only", choices=[*METHODS, *COARSE], help="one method")
    parser.add_argument("--collect", action="store_true", help="the tables from the cells that are there")
    parser.add_argument("--write", action="store_true", help="put the tables into results.md")
    asked = parser.parse_args()
    text = page(*run(asked))
    print(text)
    if asked.write:
        file = HERE / "results.md"
        before, _, rest = file.read_text("utf-8").partition(BEGIN)
        file.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
