"""Where OWL's densities help the Llama of bytes: its factor (the paper's M) and its limit (lambda) at 70 % zeros.

    python benchmarks/quality/owl.py --data ../shared/data --out FOLDER [--seeds 2] [--write]

Set-up, text and measure are those of language_model.py. Each choice and seed is a cell in FOLDER, so the same command
goes on where it was stopped. The share of outliers is that of the blocks as OWL counts them, smallest to largest.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from language_model import CALIBRATION, UNSEEN, WINDOW, text_of

import rarefy
from rarefy.allocations.owl import OWL
from rarefy.calibration import collect
from rarefy.core.site import find_sites
from rarefy.recipes.evaluations.language import Perplexity, batches_of, next_token_loss, windows

HERE = Path(__file__).parent
SPARSITY = 0.7
METHODS: dict[str, dict[str, Any]] = {"wanda": {}, "sparsegpt": {"columns": 64}}
CHOICES = [None, *((factor, limit) for factor in (3.0, 5.0, 7.0) for limit in (0.05, 0.08))]


def cell(data: Path, method: str, choice: tuple[float, float] | None, seed: int) -> dict[str, Any]:
    seen, unseen = text_of(data)
    model = rarefy.load(data / "weights" / "llama-4m-bytes")
    batches = batches_of(windows(seen, WINDOW, CALIBRATION, seed))
    owl = None if choice is None else OWL(*choice)
    outliers: list[float] = []
    if owl is not None:
        sites = [site for site in find_sites(model)[0] if site.name != "lm_head"]
        outliers = sorted(set(owl._ratios(sites, collect(model, sites, batches, owl.needs, seed)).values()))
    rarefy.prune(
        model,
        method,
        sparsity=SPARSITY,
        allocation="uniform" if owl is None else owl,
        data=batches,
        loss=next_token_loss,
        ignore=["lm_head"],
        seed=seed,
        measure=False,
        **METHODS[method],
    )
    found = Perplexity(unseen[: UNSEEN * WINDOW].view(-1, WINDOW))(model)
    return {"method": method, "choice": choice, "seed": seed, "found": found, "outliers": outliers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write owl.md beside this file")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    cells = []
    for seed in range(asked.seeds):
        for method in METHODS:
            for choice in CHOICES:
                name = "uniform" if choice is None else f"{choice[0]:g}-{choice[1]:g}"
                path = asked.out / f"{method}-{name}-{seed}.json"
                if not path.exists():
                    path.write_text(json.dumps(cell(asked.data, method, choice, seed)))
                cells.append(json.loads(path.read_text()))
                print(cells[-1], flush=True)
    text = table(cells)
    print(text)
    if asked.write:
        head = f"# OWL on the Llama of bytes\n\n{' '.join((__doc__ or '').split(chr(10) * 2)[2].split())}\n\n"
        said = f"Bits a byte at {SPARSITY:.0%} zeros, mean of {asked.seeds} seeds (smallest to largest).\n\n"
        (HERE / "owl.md").write_text(f"{head}{said}{text}")


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| densities | " + " | ".join(METHODS) + " | outliers of blocks |", "|---|" + "---|" * (len(METHODS) + 1)]
    for choice in CHOICES:
        own = [c for c in cells if (c["choice"] and tuple(c["choice"])) == choice]
        shown = []
        for method in METHODS:
            found = [c["found"]["bits_per_byte"] for c in own if c["method"] == method]
            shown.append(f"{statistics.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})")
        counted = [share for c in own for share in c["outliers"]]
        span = f"{min(counted):.2%} to {max(counted):.2%}" if counted else "-"
        name = "uniform" if choice is None else f"factor {choice[0]:g}, limit {choice[1]:g}"
        lines.append(f"| {name} | {' | '.join(shown)} | {span} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
