"""Studies, and single methods beside their rivals, on real data: what the papers claim, and whether it holds here.

    python benchmarks/analysis/run.py --data ../shared/data --out FOLDER [--only NAME ...] [--write]

The models: a Llama-shaped one of 4.4 M parameters and one of ReLUs that is trained here, both of bytes; ResNet-20 and
MLPNet as published; small nets on MNIST and small byte transformers, trained here. A cell is one study with one seed
and is kept in FOLDER, so the same command goes on where it was stopped; --write writes results.md beside this file.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

HERE = Path(__file__).parent
for neighbour in ("activations", "pruning", "quality", "training"):
    sys.path.append(str(HERE.parent / neighbour))  # behind this folder, whose names come first

from checks import Check, lines  # noqa: E402

from rarefy.engine.cpu import cpu_name  # noqa: E402


@dataclass(frozen=True)
class Group:
    """Checks of one kind of model; `seeds` of a check by its name, 1 where it is not there."""

    title: str
    said: str
    checks: dict[str, Check]
    seeds: dict[str, int]


def groups() -> list[Group]:
    import images
    import language
    import lazy
    import pruned
    import relu
    import text

    return [
        Group(m.TITLE, " ".join((m.__doc__ or "").split()), m.CHECKS, m.SEEDS)
        for m in (language, pruned, relu, lazy, images, text)
    ]


def page(made: list[Group], cells: dict[tuple[str, int], list[tuple[str, float, float]]]) -> str:
    """All tables, and what was written by hand below them."""
    known = HERE / "results.md"
    kept = known.read_text("utf-8").partition("\n## What it says")[1:] if known.exists() else ("", "")
    parts = [
        "# Studies and single methods on real data",
        "`OMP_NUM_THREADS=1 python benchmarks/analysis/run.py --data ../shared/data --out FOLDER --write`; "
        f"{date.today()}; {cpu_name()}, {torch.get_num_threads()} thread; torch {torch.__version__}.",
        "Means over the seeds (smallest to largest), as many as the last column says. Both columns of figures have the "
        "unit of their row.",
    ]
    for group in made:
        table = list[str]()
        for name, check in group.checks.items():
            found = [cells[name, seed] for seed in range(group.seeds.get(name, 1)) if (name, seed) in cells]
            table += lines(found, check) if found else []
        if table:
            head = "| check | unit | the method | its rival | seeds in which it is ahead |\n|---|---|---|---|---|"
            parts += [f"## {group.title}", group.said, "\n".join([head, *table])]
    return "\n\n".join(parts) + "\n" + "".join(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    made = groups()
    names = [name for group in made for name in group.checks]
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--collect", action="store_true", help="the table from the cells that are there")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    cells: dict[tuple[str, int], list[tuple[str, float, float]]] = {}
    for group in made:
        for name, check in group.checks.items():
            for seed in range(group.seeds.get(name, 1)):
                file = asked.out / f"{name}-{seed}.json"
                if not file.exists() and name in asked.only and not asked.collect:
                    file.write_text(json.dumps(check.run(asked.data, seed)), "utf-8")
                    print(name, seed, file.read_text("utf-8"), flush=True)
                if file.exists():
                    cells[name, seed] = [tuple(row) for row in json.loads(file.read_text("utf-8"))]
    text = page(made, cells)
    print(text)
    if asked.write:
        (HERE / "results.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
