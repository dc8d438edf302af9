"""How good the cost model's choices are on layers it has not seen: their time over the best measured time.

    python benchmarks/cost/run.py

Fits the model to a grid of measured layers, asks it for the kernel of held-out layers (other shapes, densities and
token counts), and times those too. Writes results.md beside this file. Regret of a layer: the measured time of the
model's choice, dense among the choices, over the least measured time.
"""

import math
import tempfile
from pathlib import Path
from statistics import median

import torch

from rarefy.engine.cache import TimingCache
from rarefy.engine.cell import cell_of
from rarefy.engine.cost import cost_model
from rarefy.engine.cpu import cpu_name
from rarefy.engine.fill import fill, grid, scattered
from rarefy.engine.plan import time_layer
from rarefy.engine.times import TimeTable

HERE = Path(__file__).parent
SEEN = list(grid(((384, 384), (1536, 384), (768, 768), (3072, 768)), (0.5, 0.2, 0.1, 0.05), (1, 4, 16, 128)))
UNSEEN = list(grid(((640, 512), (768, 3072), (1152, 384)), (0.35, 0.15, 0.07), (1, 8, 64, 256)))


def regrets(seen: TimingCache, unseen: TimingCache) -> list[tuple[str, float, float, str, str]]:
    """(layer, regret of the model's choice, regret of always the likely best kernel, choice, best)."""
    model, table = cost_model(seen), TimeTable(time_layer, unseen)
    rows = []
    for shape, density, tokens in UNSEEN:
        weight = scattered(shape, density)
        ms = table.times(weight, torch.zeros(shape[0]), tokens).ms
        guesses = model.predict(cell_of(weight, tokens), ms)
        choice, best = min(guesses, key=lambda n: guesses[n]), min(ms, key=lambda n: ms[n])
        first = next(name for name in ms if name != "dense")
        name = f"{shape[0]}x{shape[1]}, {1 - density:.0%} zeros, {tokens} tokens"
        rows.append((name, ms[choice] / ms[best], ms[first] / ms[best], choice, best))
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        seen, unseen = TimingCache(Path(a)), TimingCache(Path(b))
        fill(SEEN, seen)
        rows = regrets(seen, unseen)

    def line(name: str, values: list[float]) -> str:
        mean = math.exp(sum(map(math.log, values)) / len(values))
        return f"| {name} | {mean:.3f} | {median(values):.3f} | {max(values):.3f} |"

    found = [
        f"Cost model fitted to {len(SEEN)} layers, judged on {len(rows)} others; float32, {cpu_name()}, "
        f"{torch.get_num_threads()} threads. `python benchmarks/cost/run.py` writes it.",
        "",
        "| choice | regret, geometric mean | median | worst |",
        "|---|---|---|---|",
        line("cost model", [r[1] for r in rows]),
        line("the first candidate, unasked", [r[2] for r in rows]),
        "",
        "| layer | regret | chosen | best |",
        "|---|---|---|---|",
        *(f"| {name} | {regret:.2f} | {choice} | {best} |" for name, regret, _, choice, best in rows),
    ]
    (HERE / "results.md").write_text("\n".join(found) + "\n", encoding="utf-8")
    print("\n".join(found[:6]))


if __name__ == "__main__":
    main()
