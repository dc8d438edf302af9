"""The demo with its comparison: SparseGPT + recovery against magnitude + the same recovery, written as a table.

    python benchmarks/demo/run.py [--steps 180] [--seed 0]

Writes benchmarks/demo/results.md. Takes about ten minutes on two cores; a fixed number of steps, so that a slow
machine gives the same model.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rarefy.cli.progress import RichStages
from rarefy.cli.quiet import quiet_libraries
from rarefy.recipes.demo import DemoJob, demo

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    quiet_libraries()
    plan = DemoJob(magnitude=True)
    plan = replace(plan, job=replace(plan.job, recover=asked.steps, recover_seconds=None, seed=asked.seed))
    with tempfile.TemporaryDirectory() as out:
        report = demo(plan, Path(out), RichStages(Console()))
    (HERE / "results.md").write_text(table(report, asked), encoding="utf-8")
    print(table(report, asked))


def table(report: dict[str, Any], asked: argparse.Namespace) -> str:
    """The whole result as one Markdown page."""
    where, data = report["environment"], report["data"]
    lines = [
        "# The demo, measured",
        "",
        f"`python benchmarks/demo/run.py --steps {asked.steps} --seed {asked.seed}`, {where['date'][:10]}, "
        f"{where['cpu']}, {where['threads']} threads, int8 by {where['int8_units']}, "
        f"torch {where['versions']['torch']}; {report['seconds']:.0f} s in all.",
        "",
        f"all-MiniLM-L6-v2, 70 % zeros in the 36 linear layers of its encoder, {report['job']['allocation']} "
        f"allocation, {data['calibration']} calibration passages, {asked.steps} steps of recovery, quality on "
        f"{data['evaluation']} unseen passages.",
        "",
        *quality(report),
        "",
        *speed(report),
        "",
        *size(report),
        "",
        *sweep(report),
    ]
    return "\n".join(lines) + "\n"


def quality(report: dict[str, Any]) -> list[str]:
    ours, other = report["quality"], report["magnitude"]["quality"]
    rows = [
        ("SparseGPT, one pass", ours["pruned"]),
        ("SparseGPT, recovered", ours["recovered"]),
        ("magnitude, one pass", other["pruned"]),
        ("magnitude, the same recovery", other["recovered"]),
    ]
    head = ["| quality | mean cosine to dense | top-10 overlap |", "|---|---|---|"]
    return head + [f"| {name} | {q['cosine']:.3f} | {q['overlap']:.3f} |" for name, q in rows]


def speed(report: dict[str, Any]) -> list[str]:
    lines = []
    for shape in report["bench"]["shapes"]:
        lines += [
            f"| {shape['shape']} tokens | median ms | best | rarefy is | cosine to torch |",
            "|---|---|---|---|---|",
        ]
        timed = sorted(shape["timed"].items(), key=lambda item: item[1]["median"])
        for name, t in timed:
            kind = f" (int8, {t['isa']})" if t["precision"] == "int8" else ""
            ratio = "" if name == "rarefy" else f"{t['ratio']:.2f}x as fast"
            lines.append(f"| {name}{kind} | {t['median']:.1f} | {t['best']:.1f} | {ratio} | {t['cosine']:.4f} |")
        lines.append("")
    skipped = report["bench"]["skipped"]
    return lines + [f"{name}: {why}" for name, why in skipped.items()]


def size(report: dict[str, Any]) -> list[str]:
    file, memory = report["file"], report["memory"]
    return [
        "| bytes | dense | sparse | share |",
        "|---|---|---|---|",
        f"| pruned layers on disk, MB | {file['pruned_dense_bytes'] / 1e6:.1f} | {file['pruned_file_bytes'] / 1e6:.1f} "
        f"| {file['pruned_share']:.1%} |",
        f"| whole file, MB | {file['dense_bytes'] / 1e6:.1f} | {file['file_bytes'] / 1e6:.1f} "
        f"| {file['file_bytes'] / file['dense_bytes']:.1%} |",
        f"| peak memory running {memory['shape']}, MiB | {memory['dense']['run_peak']:.0f} "
        f"| {memory['compiled']['run_peak']:.0f} "
        f"| {memory['compiled']['run_peak'] / memory['dense']['run_peak']:.1%} |",
    ]


def sweep(report: dict[str, Any]) -> list[str]:
    drawn = report["sweep"]
    points = {(p["method"], p["sparsity"]): p for p in drawn["points"]}
    methods = list(dict.fromkeys(p["method"] for p in drawn["points"]))
    head = [
        f"One pass, plain, {drawn['calibration']} calibration passages, {drawn['evaluation']} unseen passages "
        "(cosine / overlap):",
        "",
        "| zeros | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    return head + [
        f"| {s:.0%} | "
        + " | ".join(f"{points[m, s]['cosine']:.3f} / {points[m, s]['overlap']:.3f}" for m in methods)
        + " |"
        for s in drawn["sparsities"]
    ]


if __name__ == "__main__":
    main()
